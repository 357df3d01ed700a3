"""What may stand in the place of a parameter: W + s A B, a quantised matrix, a stack cut in two.

Layers multiply by parameters through `product` alone and run stacks through `layers.run_stack`, so
that adapters, a base in four bits or frozen first layers need no code in any model. Sources: Hu et
al. 2021 (LoRA); Dettmers et al. 2023 (QLoRA, section 3 and appendix E: NormalFloat4).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vla_jax.core.arrays import Array

Quantization = Literal["nf4", "int8"]

# Which axes of a matrix its input runs along, by the names of its axes.
INPUTS: Mapping[tuple[str, ...], tuple[int, ...]] = {
    ("embed", "heads", "head_dim"): (0,),
    ("embed", "kv", "head_dim"): (0,),
    ("heads", "head_dim", "embed"): (0, 1),
    ("embed", "mlp"): (0,),
    ("mlp", "embed"): (0,),
    ("patch", "embed"): (0,),
    ("vocab", "embed"): (1,),
}

_BLOCK = 64  # weights that share a scale, at most; QLoRA, section 3
# Quantiles of a normal distribution, scaled to [-1, 1], with an exact zero: QLoRA, appendix E.
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LowRank:
    """W + scale A B, never added up.

    Attributes:
      base: W, an array or Quantized.
      a: the input axes of W, then r.
      b: r, then the output axes of W.
      scale: what A B counts.
    """

    base: Any
    a: Array
    b: Array
    scale: float = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantized:
    """A matrix in blocks along one axis, each a scale times codes.

    Attributes:
      codes: int8 [..., blocks, block, ...]; for nf4 uint8 [..., blocks, block / 2, ...], the first
        half of a block in the low four bits.
      scales: float32 [..., blocks, 1, ...], the largest magnitude in the block.
      kind: what codes mean.
      axis: the axis inside blocks, counted from the end: layers may be taken from the front.
    """

    codes: Any
    scales: Any
    kind: Quantization = dataclasses.field(metadata={"static": True})
    axis: int = dataclasses.field(metadata={"static": True})

    def dequantize(self, dtype: Any) -> Array:
        """Returns the matrix."""
        if self.kind == "int8":
            values = self.codes.astype(jnp.float32) / 127
        else:
            halves = (self.codes & 15, self.codes >> 4)
            codes = jnp.concatenate(halves, axis=self.axis)
            values = jnp.take(jnp.asarray(_NF4, jnp.float32), codes)
        values = values * self.scales
        at = values.ndim + self.axis
        shape = (*values.shape[: at - 1], -1, *values.shape[at + 1 :])
        return values.reshape(shape).astype(dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """A parameter of a stack: that of the first layers, and that of the last.

    Attributes:
      first: [l, ...], frozen.
      last: [l', ...], trained.
    """

    first: Array
    last: Array


def product(equation: str, x: Array, kernel: Any, accumulate: Any = None) -> Array:
    """Multiplies features by a matrix in the dtype of `x`, as `jnp.einsum(equation, x, kernel)`.

    Args:
      equation: letters of x, of the whole kernel and of the result; an ellipsis may stand in x and
        the result.
      x: features.
      kernel: an array, LowRank or Quantized.
      accumulate: dtype of the result; that of `x` when None.
    """
    if isinstance(kernel, LowRank):
        features, rest = equation.split(",")
        names, out = rest.split("->")
        inside = "".join(letter for letter in names if letter in features)
        outside = "".join(letter for letter in names if letter not in features)
        kept = "".join(letter for letter in features if letter not in inside)
        low = product(f"{features},{inside}z->{kept}z", x, kernel.a)
        delta = product(f"{kept}z,z{outside}->{out}", low, kernel.b, accumulate)
        base = product(equation, x, kernel.base, accumulate)
        return base + jnp.asarray(kernel.scale, base.dtype) * delta
    if isinstance(kernel, Quantized):
        # Computed again in the backward pass: the matrix in x's dtype is what is being saved.
        return jax.checkpoint(
            lambda x, kernel: product(equation, x, kernel.dequantize(x.dtype), accumulate)
        )(x, kernel)
    return jnp.einsum(equation, x, kernel.astype(x.dtype), preferred_element_type=accumulate)


def inputs(axes: tuple[str | None, ...]) -> tuple[int, ...] | None:
    """Returns the input axes of a matrix by its logical axes, `layers` included; None if none."""
    layers = int(bool(axes) and axes[0] == "layers")
    found = INPUTS.get(tuple(map(str, axes[layers:])))
    return None if found is None else tuple(layers + axis for axis in found)


def block(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> tuple[int, int] | None:
    """Returns the axis along which a matrix is cut into blocks, and their size, even.

    None where it is no matrix, or its input has an odd size.
    """
    along = inputs(axes)
    if along is None:
        return None
    size = shape[along[-1]]
    sizes = [n for n in range(2, _BLOCK + 1, 2) if size % n == 0]
    return (along[-1], sizes[-1]) if sizes else None


def quantize(matrix: Array, axis: int, size: int, kind: Quantization) -> Quantized:
    """Quantises a matrix in blocks of `size` along `axis`."""
    shape = matrix.shape
    cut = matrix.astype(jnp.float32).reshape(
        *shape[:axis], shape[axis] // size, size, *shape[axis + 1 :]
    )
    inside = axis + 1
    scales = jnp.max(jnp.abs(cut), axis=inside, keepdims=True)
    unit = cut / jnp.where(scales == 0, 1, scales)
    if kind == "int8":
        codes = jnp.rint(unit * 127).astype(jnp.int8)
    else:
        levels = np.array(_NF4, np.float32)
        nearest = jnp.searchsorted(jnp.asarray((levels[1:] + levels[:-1]) / 2), unit)
        low, high = jnp.split(nearest.astype(jnp.uint8), 2, axis=inside)
        codes = low | (high << 4)
    return Quantized(codes=codes, scales=scales, kind=kind, axis=inside - cut.ndim)


def quantized_axes(axes: tuple[str | None, ...], like: Quantized) -> Quantized:
    """Returns the logical axes of a quantised matrix, in its structure."""
    at = len(axes) + 1 + like.axis
    names = (*axes[:at], None, *axes[at:])
    return dataclasses.replace(like, codes=names, scales=names)


def is_quantized(leaf: Any) -> bool:
    """Tells a quantised matrix, for functions over trees."""
    return isinstance(leaf, Quantized)


def halves(stack: Any) -> tuple[Any, Any] | None:
    """Takes a tree of Split apart; None where there is none."""

    def is_split(leaf: Any) -> bool:
        return isinstance(leaf, Split)

    if not any(map(is_split, jax.tree.leaves(stack, is_leaf=is_split))):
        return None
    return (
        jax.tree.map(lambda leaf: leaf.first, stack, is_leaf=is_split),
        jax.tree.map(lambda leaf: leaf.last, stack, is_leaf=is_split),
    )
