"""Masks, positions, rotary embedding, and the attention product on three backends."""

import dataclasses
import math
from typing import Literal

import einops
import jax
import jax.numpy as jnp

from vla_jax.core.arrays import Array, Bool, Float, Int
from vla_jax.core.errors import UserError
from vla_jax.models import splash

Backend = Literal["auto", "xla", "cudnn", "splash"]
SPLASH_FROM = 4096
_DEVICES = {"cudnn": "gpu", "splash": "tpu"}


def valid_positions(valid: Bool[Array, "b s"]) -> Int[Array, "b s"]:
    """Returns the position of each token among the valid ones, from 0: padding is no gap."""
    return jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask:
    """Who sees whom: leading keys are seen by everyone, the others by those behind them.

    Attributes:
      valid: bool [b, s], False where a key is padding.
      everyone: number of leading keys that everyone may see (static): 0 is causal, images and
        prefix are a prefix-LM, all keys are no limit.
    """

    valid: Array
    everyone: int = dataclasses.field(metadata={"static": True})

    def table(self, queries: int) -> Bool[Array, "b 1 q s"]:
        """Returns True where query q, of the last `queries` positions, may see key s."""
        index = jnp.arange(self.valid.shape[1])
        query = index[index.size - queries :]
        seen = (index[None, :] <= query[:, None]) | (index[None, :] < self.everyone)
        return seen[None, None] & self.valid[:, None, None, :]


def rope(
    x: Float[Array, "b s h k"], positions: Int[Array, "b s"], base: float
) -> Float[Array, "b s h k"]:
    """Rotates the two halves of each head by position. Source: Gemma (not interleaved)."""
    half = x.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[:, :, None, None].astype(jnp.float32) * frequency[None, None, None]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


def attend(
    query: Float[Array, "b q h k"],
    key: Float[Array, "b s g k"],
    value: Float[Array, "b s g k"],
    mask: Mask | None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    backend: Backend = "xla",
) -> Float[Array, "b q h k"]:
    """Returns softmax(cap(scale query key')) value; h is a multiple of the key heads g.

    Args:
      query: of the last q positions.
      key: of all positions.
      value: of all positions.
      mask: who sees whom; None for everyone everything.
      scale: of the logits; None is k**-0.5.
      softcap: bound of the logits; None for none.
      backend: what computes it. All agree, except for what padding asks.
    """
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1])
    backend = choose(backend, query.shape[1])
    if backend == "xla":
        table = None if mask is None else mask.table(query.shape[1])
        return _attend_xla(query, key, value, table, scale, softcap)
    if backend == "cudnn":
        return _attend_cudnn(query, key, value, mask, scale)
    if mask is None:
        mask = Mask(valid=jnp.ones(key.shape[:2], bool), everyone=key.shape[1])
    return splash.attend(query, key, value, mask.valid, mask.everyone, scale=scale, softcap=softcap)


def choose(backend: Backend, queries: int) -> Literal["xla", "cudnn", "splash"]:
    """Returns what computes attention of so many queries.

    One query has no use for a kernel. `auto` is XLA but for `SPLASH_FROM` queries and more on a
    TPU: compiled for v5e, forward and backward of one sequence at 896 pixels take 182 MiB beside
    their inputs in PaliGemma's decoder, of XLA 1094, and 129 in its tower, of XLA 1552; up to 1024
    XLA keeps the logits on the chip. cuDNN has not been measured, so it has to be asked for.
    """
    if queries == 1:
        return "xla"
    if backend == "auto":
        long = queries >= SPLASH_FROM and _platform() == "tpu"
        return "splash" if long else "xla"
    return backend


def _platform() -> str:
    """Returns what is computed on: the devices of the mesh, which may be planned for, not here."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def check(backend: Backend) -> None:
    """Checks that a backend runs on this machine.

    Raises:
      UserError: it runs on another kind of device.
    """
    needed, found = _DEVICES.get(backend), jax.default_backend()
    if needed is not None and needed != found:
        raise UserError(
            f"config.model.backend={backend}",
            expected=f"a {needed.upper()}",
            found=found.upper(),
            fix="Choose auto or xla",
        )


def _attend_xla(
    query: Array,
    key: Array,
    value: Array,
    table: Array | None,
    scale: float,
    softcap: float | None,
) -> Array:
    if softcap is None:
        return jax.nn.dot_product_attention(
            query, key, value, mask=table, scale=scale, implementation="xla"
        )
    groups = key.shape[2]
    query = einops.rearrange(query, "b q (g n) k -> b q g n k", g=groups)
    logits = jnp.einsum("bqgnk,bsgk->bgnqs", query, key, preferred_element_type=jnp.float32)
    logits = cap(logits * scale, softcap)
    if table is not None:
        logits = jnp.where(table[:, :, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    out = jnp.einsum("bgnqs,bsgk->bqgnk", weights, value)
    return einops.rearrange(out, "b q g n k -> b q (g n) k")


def _attend_cudnn(query: Array, key: Array, value: Array, mask: Mask | None, scale: float) -> Array:
    """Pads to even lengths, at the front: the backward pass wants them where there is a mask."""
    if mask is None:
        return jax.nn.dot_product_attention(query, key, value, scale=scale, implementation="cudnn")
    length, valid = query.shape[1], mask.valid
    query, key, value = (
        jnp.pad(x, [(0, 0), (x.shape[1] % 2, 0), (0, 0), (0, 0)]) for x in (query, key, value)
    )
    odd = valid.shape[1] % 2
    mask = Mask(
        valid=jnp.pad(valid, [(0, 0), (odd, 0)]),
        everyone=mask.everyone + odd if mask.everyone else 0,
    )
    out = jax.nn.dot_product_attention(
        query, key, value, mask=mask.table(query.shape[1]), scale=scale, implementation="cudnn"
    )
    return out[:, -length:]


def cap(x: Float[Array, "..."], bound: float | None) -> Float[Array, "..."]:
    """Returns bound tanh(x / bound), which Gemma 2 applies to logits; x itself where None."""
    return x if bound is None else jnp.tanh(x / bound) * bound
