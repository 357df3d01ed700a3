"""Device memory of a training step on paper: for GPUs, and to choose what to compile for a TPU.

What has shapes (state, batch, gradients) is exact; activations are counted tensor by tensor, as far
as the backward pass needs them (Korthikanti et al. 2022, section 4, for another block). The tests
and `benchmarks/results/plan.md` say how near that comes to the compiler.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.planning.shapes import Shapes, abstract_batch
from vla_jax.models import flops, layers
from vla_jax.models.vit import ViTConfig
from vla_jax.runtime import sharding

_FLOAT = 4  # bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes of each device.

    Attributes:
      state: parameters, moments and what else is carried from step to step.
      batch: this device's examples.
      gradients: of what is trained, until they are applied.
      activations: what the forward pass keeps for the backward pass.
      working: the layer that is being computed, parameters gathered for it, and logits.
    """

    state: float
    batch: float
    gradients: float
    activations: float
    working: float

    @property
    def total(self) -> float:
        """All of them: the peak is in the backward pass of the first layers."""
        return self.state + self.batch + self.gradients + self.activations + self.working


def estimate(config: RunConfig, shapes: Shapes, vocabulary: int) -> Estimate:
    """Returns what a training step takes of each device.

    Args:
      config: the run.
      shapes: its model on a mesh.
      vocabulary: number of token ids.
    """
    state, mesh = shapes.state, shapes.mesh
    layers = _layers(config, mesh)
    kept = sum(layer.kept(config.model.remat) * layer.depth for layer in layers)
    if config.model.remat == "none":
        kept += _casts(config, state.params)
    busy = max(layer.kept("none") for layer in layers)
    return Estimate(
        state=bytes_per_device(state),
        batch=bytes_per_device(abstract_batch(config, mesh)),
        gradients=bytes_per_device(state.params),
        activations=kept,
        # A layer is computed again; its gradients take the place of what they are made of.
        working=busy + _gathered(config, mesh, state.params) + _logits(config, mesh, vocabulary),
    )


def bytes_per_device(tree: Any) -> float:
    """Returns the bytes that each device holds of a pytree of placed `jax.ShapeDtypeStruct`."""
    return float(
        sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
            for leaf in jax.tree.leaves(tree)
        )
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layer:
    """Bytes of one layer's tensors on a device.

    Attributes:
      depth: how many such layers there are.
      stream: the residual stream.
      products: outputs of the matrix products.
      others: what lies between: norms, activations, rotated heads, attention weights.
    """

    depth: int
    stream: float
    products: float
    others: float

    def kept(self, remat: str) -> float:
        """Returns what stays until the backward pass."""
        parts = {
            "full": (self.stream,),
            "dots": (self.stream, self.products),
            "none": (self.stream, self.products, self.others),
        }
        return sum(parts[remat])


def _layers(config: RunConfig, mesh: Any) -> list[_Layer]:
    """Returns the layers of the vision towers and of the decoder."""
    model, examples = config.model, examples_per_device(config, mesh)
    views = len(config.loader.views) * config.loader.history
    size = _Sizes(mesh.shape["tensor"], jnp.dtype(model.dtype).itemsize)
    towers = [
        _tower_layer(tower, examples * views, size)
        for tower in (model.vision, model.fused_vision)
        if tower is not None
    ]
    length = flops.length(
        model, images=views, prefix=config.sequence.prefix, suffix=config.sequence.suffix
    )
    decoder, hidden = model.decoder, size.split(model.decoder.mlp, 1)
    return [
        *towers,
        size.layer(
            decoder.depth,
            examples * length,
            decoder.width,
            (size.split(decoder.heads, decoder.head_dim), decoder.key_heads * decoder.head_dim),
            2 * hidden,
            (_kept(decoder.activation) + 1) * hidden,  # and the gated
            size.split(decoder.heads, length),
        ),
    ]


def _tower_layer(tower: ViTConfig, images: float, size: "_Sizes") -> _Layer:
    tokens = tower.patches + tower.extra_tokens
    one, hidden = size.split(tower.heads, tower.width // tower.heads), size.split(tower.mlp, 1)
    return size.layer(
        max(tower.depth - tower.unused, 0),
        images * tokens,
        tower.width,
        (one, one),
        hidden + tower.width * tower.layer_scale,
        _kept(tower.activation) * hidden,
        size.split(tower.heads, tokens),
    )


@functools.cache
def _kept(activation: layers.Activation) -> int:
    """Returns how many tensors like its input an activation keeps for its gradient.

    Its derivative is asked, as that depends on JAX: GELU (tanh) keeps 5 with 0.10, then 4.
    """
    x = jax.ShapeDtypeStruct((2,), jnp.float32)
    pull_back = jax.eval_shape(lambda x: jax.vjp(lambda y: layers.activate(y, activation), x)[1], x)
    kept = jax.tree.leaves(pull_back)
    return sum((array.shape, array.dtype) == (x.shape, x.dtype) for array in kept)


class _Sizes(NamedTuple):
    """What every layer is counted with: the `tensor` axis, and bytes of a computed element."""

    tensor: int
    item: int

    def split(self, count: int, size: int) -> float:
        """Elements of heads or hidden units, which lie along `tensor` where it divides them."""
        return count * size / (self.tensor if count % self.tensor == 0 else 1)

    def layer(
        self, depth: int, tokens: float, width: int, heads: tuple[float, float], *wide: float
    ) -> _Layer:
        """Bytes of a layer: of heads that ask and that are asked; products, hidden, scores."""
        (asked, given), (products, hidden, scores) = heads, wide
        return _Layer(
            depth=depth,
            stream=tokens * width * self.item,
            products=tokens * (asked + 2 * given + width + products) * self.item,
            # Norms are computed in float32, attention weights are kept in both.
            others=tokens * (4 * width * _FLOAT + (asked + hidden) * self.item)
            + tokens * scores * (_FLOAT + self.item),
        )


def examples_per_device(config: RunConfig, mesh: Any) -> float:
    """Returns how many examples a device has in work at once."""
    return config.loader.batch_size / math.prod(mesh.shape[axis] for axis in sharding.BATCH_AXES)


def _casts(config: RunConfig, params: Any) -> float:
    """Returns the bytes of stacked matrices in the dtype of the computation, if it is another."""
    item = jnp.dtype(config.model.dtype).itemsize
    return sum(
        bytes_per_device(leaf) / jnp.dtype(leaf.dtype).itemsize * item
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if _is_stacked(path) and len(leaf.shape) > 2 and jnp.dtype(leaf.dtype).itemsize != item
    )


def _gathered(config: RunConfig, mesh: Any, params: Any) -> float:
    """Returns the bytes of parameters and gradients that are put together for their use.

    Of a stack one layer is in use and the next on its way, in the dtype of the computation. Single
    parameters are there as a whole, with a float32 gradient where the parameter is sliced; those
    that `sharding.by_rows` spreads stay in slices.
    """
    item, tensor = jnp.dtype(config.model.dtype).itemsize, mesh.shape["tensor"]
    stacks: dict[str, float] = {}
    whole = 0.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        sliced = "fsdp" in leaf.sharding.spec and mesh.shape["fsdp"] > 1
        size = leaf.size / (tensor if "tensor" in leaf.sharding.spec else 1)
        if is_spread(path, leaf):
            whole += size / mesh.shape["fsdp"] * (item + _FLOAT)
        elif not _is_stacked(path):
            is_cast = jnp.dtype(leaf.dtype).itemsize != item
            whole += size * ((sliced or is_cast) * item + sliced * _FLOAT)
        elif sliced:
            stack = str(path[0])
            stacks[stack] = stacks.get(stack, 0.0) + 2 * size * item / leaf.shape[0]
    return max(stacks.values(), default=0.0) + whole


def is_spread(path: Any, leaf: Any) -> bool:
    """Tells whether a parameter is a table of the vocabulary that is never put together."""
    mesh, spec = leaf.sharding.mesh, leaf.sharding.spec
    is_table = getattr(path[-1], "key", None) in ("embedding", "head")
    return (
        is_table
        and "fsdp" in spec
        and (leaf.shape[0] % (mesh.shape["tensor"] * mesh.shape["fsdp"]) == 0)
    )


def _is_stacked(path: Any) -> bool:
    return any(getattr(key, "key", None) == "blocks" for key in path)


def _logits(config: RunConfig, mesh: Any, vocabulary: int) -> float:
    """Returns the bytes of float32 logits and their gradients."""
    tensor = mesh.shape["tensor"]
    rows = vocabulary / tensor if vocabulary % tensor == 0 else vocabulary
    return 2 * _FLOAT * examples_per_device(config, mesh) * config.sequence.suffix * rows
