"""Splash attention on TPUs: the logits are never held, and blocks that nobody sees are skipped.

Source: jax:jax/experimental/pallas/ops/tpu/splash_attention. The kernel computes who sees whom from
the positions, padding is a segment of its own, and lengths are padded to whole blocks here.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask

from vla_jax.core.arrays import Array, Bool, Float
from vla_jax.runtime import sharding

P = jax.sharding.PartitionSpec

# Sizes of blocks, best first: whole lanes, and what fits into the memory of a core with heads of
# 256 and the backward pass.
BLOCKS = (512, 384, 256, 128)


@dataclasses.dataclass(frozen=True)
class _Rule:
    """Whether query q, in slot `first` + q, sees key k; equal rules share a compiled kernel."""

    everyone: int
    first: int

    def __call__(self, query: Array, key: Array) -> Array:
        return (key <= query + self.first) | (key < self.everyone)


class _Sees(splash_attention_mask._ComputableMask):
    """The mask of `attention.Mask`, without its padding, computed inside the kernel."""

    def __init__(self, shape: tuple[int, int], rule: _Rule):
        super().__init__(shape, rule)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Sees)
            and self.shape == other.shape
            and self.mask_function == other.mask_function
        )

    def __hash__(self) -> int:
        return hash((self.shape, self.mask_function))


def attend(
    query: Float[Array, "b q h k"],
    key: Float[Array, "b s g k"],
    value: Float[Array, "b s g k"],
    valid: Bool[Array, "b s"],
    everyone: int,
    *,
    scale: float,
    softcap: float | None,
) -> Float[Array, "b q h k"]:
    """Returns what `attention.attend` does; what padding asks gets another answer, nobody's.

    Under a mesh (`jax.set_mesh`) batch and heads are split over it as `runtime.sharding` has them;
    without one the program must be of one device, as the compiler cannot split a kernel.

    Args:
      query: of the last q positions.
      key: of all s positions.
      value: of all positions.
      valid: False where a key is padding.
      everyone: number of leading keys that everyone may see.
      scale: of the logits.
      softcap: bound of the logits; None for none.
    """

    def run(query: Array, key: Array, value: Array, valid: Array) -> Array:
        return _attend(query, key, value, valid, everyone, scale=scale, softcap=softcap)

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return run(query, key, value, valid)
    batch, heads, groups = _places(mesh, len(query), query.shape[2], key.shape[2])
    keys = P(batch, None, groups)
    split = jax.shard_map(
        run,
        in_specs=(P(batch, None, heads), keys, keys, P(batch)),
        out_specs=P(batch, None, heads),
        check_vma=False,
    )
    return split(query, key, value, valid)


def _places(
    mesh: jax.sharding.AbstractMesh, batch: int, heads: int, groups: int
) -> tuple[tuple[str, ...] | None, str | None, str | None]:
    """Returns the mesh axes of the batch, the query heads and the key heads."""
    slices = 1
    for axis in sharding.BATCH_AXES:
        slices *= mesh.shape[axis]
    axis = sharding.RULES["heads"]
    size = mesh.shape[axis] if axis else 1
    split = heads % size == 0 and (groups % size == 0 or groups == 1)
    return (
        None if batch % slices else sharding.BATCH_AXES,
        axis if split else None,
        axis if split and groups > 1 else None,
    )


def _attend(
    query: Array,
    key: Array,
    value: Array,
    valid: Array,
    everyone: int,
    *,
    scale: float,
    softcap: float | None,
) -> Array:
    """Runs the kernel on the examples and heads of one device."""
    asked, length = query.shape[1], key.shape[1]
    segments = valid.astype(jnp.int32)
    rows = _pad(segments[:, -asked:], asked)
    columns = _pad(segments, length)
    shape = (rows.shape[1], columns.shape[1])
    masks = [_Sees(shape, _Rule(everyone, length - asked))] * query.shape[2]
    kernel = splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask(masks),
        block_sizes=_blocks(*shape),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap,
    )
    query = query * jnp.asarray(scale, query.dtype)
    parts = (
        jnp.swapaxes(_pad(x, size), 1, 2)
        for x, size in ((query, asked), (key, length), (value, length))
    )
    out: Any = jax.vmap(kernel)(*parts, splash_attention.SegmentIds(q=rows, kv=columns))
    return jnp.swapaxes(out, 1, 2)[:, :asked]


def _pad(x: Array, size: int) -> jax.Array:
    """Pads axis 1, of length `size`, with zeros to a multiple of the least block."""
    room = -size % BLOCKS[-1]
    return jnp.pad(x, [(0, 0), (0, room)] + [(0, 0)] * (x.ndim - 2))


def _blocks(queries: int, keys: int) -> splash_attention.BlockSizes:
    """Returns the largest blocks that divide both lengths, for both passes."""
    rows, columns = (next(b for b in BLOCKS if size % b == 0) for size in (queries, keys))
    return splash_attention.BlockSizes(
        block_q=rows,
        block_kv=columns,
        block_kv_compute=columns,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        block_kv_dkv_compute=columns,
        use_fused_bwd_kernel=True,
    )
