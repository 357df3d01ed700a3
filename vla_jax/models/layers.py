"""Parameters with logical axes, norms, and the scan over a stack of equal layers.

A block is written for one layer and created with a leading `layers` axis on every parameter;
`run_stack` scans over that axis. One code path serves 2 layers on a laptop and 48 on a pod.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from vla_jax.core.arrays import Array, Float
from vla_jax.models import kernels
from vla_jax.runtime import sharding

Remat = Literal["none", "dots", "narrow", "full", "auto"]
Activation = Literal["gelu", "gelu_exact", "silu", "relu"]


class Initializer:
    """Creates parameters: their values from one key stream, their logical axes as metadata.

    Args:
      rngs: key stream `params`.
      dtype: dtype of the parameters.
      layers: length of the leading `layers` axis, None for a parameter that is not stacked.
    """

    def __init__(self, rngs: nnx.Rngs, dtype: jnp.dtype, layers: int | None = None):
        self._rngs, self._dtype, self._layers = rngs, dtype, layers

    def _param(self, value: Array, axes: tuple[str | None, ...]) -> nnx.Param:
        axes = axes if self._layers is None else ("layers", *axes)
        return nnx.Param(value, axes=axes)

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self._layers is None else (self._layers, *shape)

    def normal(self, shape: tuple[int, ...], axes: tuple[str | None, ...], std: float) -> nnx.Param:
        """Returns a parameter drawn from N(0, std^2)."""
        value = jax.random.normal(self._rngs.params(), self._shape(shape), self._dtype)
        return self._param(value * jnp.asarray(std, self._dtype), axes)

    def constant(
        self, shape: tuple[int, ...], axes: tuple[str | None, ...], value: float
    ) -> nnx.Param:
        """Returns a parameter filled with `value`."""
        return self._param(jnp.full(self._shape(shape), value, self._dtype), axes)


def rms_norm(
    x: Float[Array, "... d"], scale: Float[Array, " d"], epsilon: float = 1e-6
) -> Float[Array, "... d"]:
    """Normalises by the root mean square in float32, times `scale`."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + epsilon)
    return (y * jnp.expand_dims(scale, range(x.ndim - 1))).astype(x.dtype)


def layer_norm(
    x: Float[Array, "... d"],
    scale: Float[Array, " d"],
    bias: Float[Array, " d"],
    epsilon: float = 1e-6,
) -> Float[Array, "... d"]:
    """Normalises mean and variance in float32. Source: big_vision:models/vit.py (eps 1e-6)."""
    leading = range(x.ndim - 1)
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + epsilon)
    return (y * jnp.expand_dims(scale, leading) + jnp.expand_dims(bias, leading)).astype(x.dtype)


def activate(x: Float[Array, "..."], name: Activation) -> Float[Array, "..."]:
    """Applies GELU (`gelu`: tanh form, as big_vision; `gelu_exact`: as timm), SiLU or ReLU.

    ReLU costs a CPU a fraction of the others.
    """
    if name in ("gelu", "gelu_exact"):
        return jax.nn.gelu(x, approximate=name == "gelu")
    return jax.nn.silu(x) if name == "silu" else jax.nn.relu(x)


def scale(x: Float[Array, "... d"], factor: nnx.Param) -> Float[Array, "... d"]:
    """Returns x times a factor per feature (LayerScale), in the dtype of `x`."""
    return x * jnp.expand_dims(factor[...].astype(x.dtype), range(x.ndim - 1))


def drop(
    x: Float[Array, "..."], rate: float, key: Array | None, shape: tuple[int, ...] | None = None
) -> Float[Array, "..."]:
    """Zeroes a share of `x` and scales the rest up (dropout); returns `x` itself without a key.

    Args:
      x: features.
      rate: the share, 0..1.
      key: draws what is zeroed.
      shape: of the draw, broadcast to `x`; None for one per number.
    """
    if key is None or not rate:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape if shape is None else shape)
    return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))


def product(
    equation: str, x: Float[Array, "..."], kernel: nnx.Param, accumulate: jnp.dtype | None = None
) -> Float[Array, "..."]:
    """Multiplies by a parameter, see `kernels.product`."""
    return kernels.product(equation, x, kernel.get_value(), accumulate)


def heads(
    x: Float[Array, "b s d"], kernel: nnx.Param, bias: nnx.Param | None = None
) -> Float[Array, "b s h k"]:
    """Projects features to attention heads, in the dtype of `x`."""
    y = product("bsd,dhk->bshk", x, kernel)
    return y if bias is None else y + bias[...].astype(x.dtype)[None, None]


def dense(
    x: Float[Array, "... i"], kernel: nnx.Param, bias: nnx.Param | None = None
) -> Float[Array, "... o"]:
    """Returns x @ kernel + bias in the dtype of `x`."""
    y = product("...i,io->...o", x, kernel)
    if bias is not None:
        y = y + jnp.expand_dims(bias[...].astype(x.dtype), range(x.ndim - 1))
    return y


def is_narrow(width: int, out: int) -> bool:
    """Tells whether `remat=narrow` keeps the product that makes `out` features of `width`."""
    return out < 2 * width


def _keep_narrow(primitive: Any, *operands: Any, **params: Any) -> bool:
    """The policy of `remat=narrow`, for `jax.checkpoint`."""
    if not jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, **params):
        return False
    features, matrix = operands
    (inside, _), _ = params["dimension_numbers"]
    width = math.prod(features.shape[axis] for axis in inside)
    return is_narrow(width, math.prod(matrix.shape) // width)


# What is kept of a layer for its backward pass.
_KEPT = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "narrow": _keep_narrow,
    "full": None,
}


def run_stack(
    blocks: nnx.Module,
    call: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any = None,
    *,
    remat: Remat = "none",
    unroll: int = 1,
    last: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None,
) -> tuple[Any, Any]:
    """Scans `call` over the layers of a stacked block.

    Args:
      blocks: a module whose parameters have a leading `layers` axis.
      call: (block of one layer, carry, x of that layer) -> (carry, y of that layer).
      carry: what flows from layer to layer.
      xs: one slice per layer, on the leading axis, or None.
      remat: what the backward pass recomputes: nothing; all but matrix products (`dots`); all but
        narrow ones (`narrow`), which lets the hidden features of feed-forward layers go;
        everything (`full`). `auto`, where nobody has chosen, is nothing.
      unroll: layers per loop iteration; the depth unrolls the loop, which is faster for few layers.
      last: takes the place of `call` in the last layer of an unrolled loop; it may change the shape
        of the carry. A loop that is not unrolled would have to copy all other layers for it, and
        calls `call`.

    Returns:
      The last carry and the stacked ys.
    """
    graph, state = nnx.split(blocks)
    cut = kernels.halves(state)
    if cut is None:
        return _run(graph, state, call, carry, xs, remat, unroll, last)
    first, second = cut
    depth = jax.tree.leaves(first)[0].shape[0]
    early = jax.tree.map(lambda x: x[:depth], xs)
    late = jax.tree.map(lambda x: x[depth:], xs)
    carry, ys = _run(graph, first, call, carry, early, remat, unroll, None)
    carry, more = _run(graph, second, call, carry, late, remat, unroll, last)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), ys, more)


def _run(
    graph: nnx.GraphDef,
    state: Any,
    call: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any,
    remat: Remat,
    unroll: int,
    last: Callable[[Any, Any, Any], tuple[Any, Any]] | None,
) -> tuple[Any, Any]:
    """Scans over one stack, see `run_stack`."""

    def make_body(call: Callable[[Any, Any, Any], tuple[Any, Any]]) -> Callable:
        def body(carry: Any, layer: Any) -> tuple[Any, Any]:
            layer_state, x = layer
            carry = jax.tree.map(sharding.keep_batch, carry)
            carry, y = call(nnx.merge(graph, layer_state), carry, x)
            return jax.tree.map(sharding.keep_batch, carry), y

        if remat in ("none", "auto"):
            return body
        return jax.checkpoint(body, policy=_KEPT[remat], prevent_cse=False)

    depth = jax.tree.leaves(state)[0].shape[0]
    if last is None or unroll < depth:
        return jax.lax.scan(make_body(call), carry, (state, xs), unroll=unroll)
    ys = []
    for number in range(depth):
        body = make_body(last if number == depth - 1 else call)
        carry, y = body(carry, jax.tree.map(lambda leaf, n=number: leaf[n], (state, xs)))
        ys.append(y)
    return carry, jax.tree.map(lambda *parts: jnp.stack(parts), *ys)
