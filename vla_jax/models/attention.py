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
CUDNN_HEADS = 128  # the largest that all GPUs with bfloat16 have kernels for, backward too
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
      full: bool [b], True for an example whose queries see all of its keys; None where there is
        none.
    """

    valid: Array
    everyone: int = dataclasses.field(metadata={"static": True})
    full: Array | None = None

    def table(self, queries: int) -> Bool[Array, "b 1 q s"]:
        """Returns True where query q, of the last `queries` positions, may see key s."""
        index = jnp.arange(self.valid.shape[1])
        query = index[index.size - queries :]
        seen = (index[None, :] <= query[:, None]) | (index[None, :] < self.everyone)
        seen = seen[None, None]
        if self.full is not None:
            seen = seen | self.full[:, None, None, None]
        return seen & self.valid[:, None, None, :]


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
    backend = choose(backend, query, key, softcap=softcap)
    if backend == "splash" and mask is not None and mask.full is not None:
        backend = "xla"  # its kernel has one rule for all examples
    if backend == "xla":
        table = None if mask is None else mask.table(query.shape[1])
        return _attend_xla(query, key, value, table, scale, softcap)
    if backend == "cudnn":
        return _attend_cudnn(query, key, value, mask, scale)
    if mask is None:
        mask = Mask(valid=jnp.ones(key.shape[:2], bool), everyone=key.shape[1])
    return splash.attend(query, key, value, mask.valid, mask.everyone, scale=scale, softcap=softcap)


def choose(
    backend: Backend,
    query: Float[Array, "b q h k"],
    key: Float[Array, "b s g k"],
    *,
    softcap: float | None = None,
) -> Literal["xla", "cudnn", "splash"]:
    """Returns what computes the attention of a module.

    One query has no use for a kernel. `auto` is cuDNN on NVIDIA's GPUs where it can do it, see
    `cudnn_lacks`, and splash for `SPLASH_FROM` queries and more on TPUs: compiled for v5e, forward
    and backward of one sequence at 896 pixels take 182 MiB beside their inputs in PaliGemma's
    decoder, of XLA 1094, and 129 in its tower, of XLA 1552; up to 1024 XLA keeps the logits on the
    chip. Everything else is XLA, Gemma's heads of 256 on GPUs among it: of JAX's Pallas kernels
    Triton's compiles for them but knows no prefix mask, and Mosaic's knows no bfloat16 there.

    Args:
      backend: what was asked for.
      query: of the module, or its shape and dtype.
      key: likewise.
      softcap: bound of the logits.
    """
    if query.shape[1] == 1:
        return "xla"
    if backend != "auto":
        return backend
    platform, kind = _device()
    if platform == "tpu" and query.shape[1] >= SPLASH_FROM:
        return "splash"
    if platform != "gpu" or not kind.startswith("NVIDIA"):
        return "xla"
    lacks = cudnn_lacks(str(query.dtype), query.shape[-1], softcap)
    # Its split over a mesh wants keys to lie as queries do.
    whole = jax.sharding.get_abstract_mesh().shape.get("tensor", 1) == 1
    same = query.dtype == key.dtype
    return "cudnn" if same and whole and not lacks else "xla"


def cudnn_lacks(dtype: str, head: int, softcap: float | None) -> list[str]:
    """Returns what cuDNN's attention cannot do of a module, in words; nothing where it can all.

    Source: jax:jax/_src/cudnn/fused_attention_stablehlo.py, `check_is_flash_attention`; on Hopper
    alone there are heads of 256.
    """
    reasons = {
        f"dtype {dtype} (bfloat16 is what it computes)": dtype != "bfloat16",
        f"heads of {head} ({CUDNN_HEADS} is the limit)": head > CUDNN_HEADS,
        f"heads of {head} (they have to be a multiple of 8)": bool(head % 8),
        f"attention_softcap {softcap} (it has none)": bool(softcap),
    }
    return [reason for reason, holds in reasons.items() if holds]


def _device() -> tuple[str, str]:
    """Returns platform and kind of the devices of the mesh, which may be planned for, not here."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        return jax.default_backend(), jax.devices()[0].device_kind
    return device.platform, device.device_kind


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
    """Pads to even lengths, at the front: the backward pass wants them."""
    if mask is None and (query.shape[1] % 2 or key.shape[1] % 2):
        mask = Mask(valid=jnp.ones(key.shape[:2], bool), everyone=key.shape[1])
    if mask is None:
        return jax.nn.dot_product_attention(query, key, value, scale=scale, implementation="cudnn")
    length, valid = query.shape[1], mask.valid
    query, key, value = (
        jnp.pad(x, [(0, 0), (x.shape[1] % 2, 0), (0, 0), (0, 0)]) for x in (query, key, value)
    )
    odd = valid.shape[1] % 2
    mask = dataclasses.replace(
        mask,
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
