"""Masks, positions, rotary embedding and the attention product."""

import einops
import jax
import jax.numpy as jnp

from vla_jax.core.arrays import Array, Bool, Float, Int


def valid_positions(valid: Bool[Array, "b s"]) -> Int[Array, "b s"]:
    """Returns the position of each token among the valid ones, from 0: padding is no gap."""
    return jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)


def prefix_lm_mask(
    valid: Bool[Array, "b k"], prefix: int, queries: int | None = None
) -> Bool[Array, "b 1 q k"]:
    """Attention over images and prefix is bidirectional, over the suffix causal.

    Args:
      valid: False where a key is padding.
      prefix: number of leading slots (images and prefix text) that everyone may see.
      queries: how many of the last positions ask; None for all.

    Returns:
      True where query q may see key k.
    """
    index = jnp.arange(valid.shape[1])
    query = index if queries is None else index[-queries:]
    seen = (index[None, :] <= query[:, None]) | (index[None, :] < prefix)
    return seen[None, None] & valid[:, None, None, :]


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
    mask: Bool[Array, "b 1 q s"] | None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "b q h k"]:
    """Returns softmax(cap(scale query key')) value; h is a multiple of the key heads g.

    Args:
      query: of the tokens that ask.
      key: of all tokens.
      value: of all tokens.
      mask: True where a query may see a key; None for everywhere.
      scale: of the logits; None is k**-0.5.
      softcap: bound of the logits; None for none.
    """
    if softcap is None:
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, scale=scale, implementation="xla"
        )
    groups = key.shape[2]
    query = einops.rearrange(query, "b q (g n) k -> b q g n k", g=groups)
    logits = jnp.einsum("bqgnk,bsgk->bgnqs", query, key, preferred_element_type=jnp.float32)
    logits = cap(logits * (query.shape[-1] ** -0.5 if scale is None else scale), softcap)
    if mask is not None:
        logits = jnp.where(mask[:, :, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    out = jnp.einsum("bgnqs,bsgk->bqgnk", weights, value)
    return einops.rearrange(out, "b q g n k -> b q (g n) k")


def cap(x: Float[Array, "..."], bound: float | None) -> Float[Array, "..."]:
    """Returns bound tanh(x / bound), which Gemma 2 applies to logits; x itself where None."""
    return x if bound is None else jnp.tanh(x / bound) * bound
