"""What a training step costs at best: arithmetic, traffic of memory and of the interconnect.

A roofline: the three overlap perfectly and each runs at its published rate, so no step is faster.
The traffic is that of the sharding rules (Rajbhandari et al. 2020, section 7; Shoeybi et al. 2019,
section 3), with ring collectives.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vla_jax.core import trees
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.planning.estimate import (
    bytes_per_device,
    examples_per_device,
    is_spread,
)
from vla_jax.experiment.planning.shapes import Shapes
from vla_jax.models import flops
from vla_jax.runtime import sharding
from vla_jax.runtime.topology import Topology


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """One step.

    Attributes:
      flops: model FLOPs of the whole batch, forward and backward, by component.
      recomputed: FLOPs that rematerialisation adds to them.
      collectives: bytes that each device sends, by mesh axis.
      seconds: what arithmetic (`compute`), device memory (`memory`) and collectives
        (`interconnect`) take at the published rates.
      peak_flops: FLOP/s of all devices.
    """

    flops: Mapping[str, float]
    recomputed: float
    collectives: Mapping[str, float]
    seconds: Mapping[str, float]
    peak_flops: float

    @property
    def step_seconds(self) -> float:
        """The shortest step there can be."""
        return max(self.seconds.values())

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation of that step, 0..1: none is higher."""
        return sum(self.flops.values()) / self.step_seconds / self.peak_flops


def cost(config: RunConfig, shapes: Shapes, vocabulary: int, topology: Topology) -> Cost:
    """Returns what a step costs.

    Args:
      config: the run.
      shapes: its model on a mesh.
      vocabulary: number of token ids.
      topology: where it is to run.
    """
    forward = forward_flops(config, vocabulary)
    batch, params, state = config.loader.batch_size, shapes.params, shapes.state
    step = flops.training(forward, *flops.shares(_sizes(params), _sizes(state.params)))
    step = {name: batch * value for name, value in step.items()}
    recomputed = batch * flops.recomputed(config.model, forward)
    sent = _collectives(config, shapes.mesh, params, state.params)
    chip, devices = topology.chip, topology.devices
    return Cost(
        flops=step,
        recomputed=recomputed,
        collectives=sent,
        seconds={
            "compute": (sum(step.values()) + recomputed) / devices / chip.flops,
            "memory": _traffic(config, shapes) / chip.bandwidth,
            "interconnect": sum(
                size / _rate(topology, axis, shapes.mesh) for axis, size in sent.items()
            ),
        },
        peak_flops=devices * chip.flops,
    )


def forward_flops(config: RunConfig, vocabulary: int) -> dict[str, float]:
    """Returns the FLOPs of one example's forward pass, by component."""
    return flops.forward(
        config.model,
        vocabulary,
        images=len(config.loader.views) * config.loader.history,
        prefix=config.sequence.prefix,
        suffix=config.sequence.suffix,
    )


def _sizes(params: Any) -> dict[str, int]:
    return {name: leaf.size for name, leaf in trees.named_leaves(params).items()}


def _collectives(config: RunConfig, mesh: Any, params: Any, trained: Any) -> dict[str, float]:
    """Returns the bytes that each device sends per step, by mesh axis, in the computation's dtype.

    Sliced parameters are gathered for the forward and for the backward pass and their gradients
    scattered; whole ones have their gradients summed over the axes of the batch.
    """
    item = jnp.dtype(config.model.dtype).itemsize
    share = {axis: (size - 1) / size for axis, size in mesh.shape.items()}
    sent = dict.fromkeys(mesh.shape, 0.0)
    for tree, times in ((params, 2), (trained, 1)):
        whole = item * sum(
            # Turning slices of columns into slices of rows moves one slice.
            _beside_tensor(leaf, mesh) / (mesh.shape["fsdp"] if is_spread(path, leaf) else 1)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
            if "fsdp" in leaf.sharding.spec
        )
        sent["fsdp"] += times * config.optimizer.accumulate * share["fsdp"] * whole
    for leaf in jax.tree.leaves(trained):
        mine = math.prod(leaf.sharding.shard_shape(leaf.shape)) * item
        for axis in sharding.BATCH_AXES:
            if axis not in leaf.sharding.spec:
                sent[axis] += 2 * share[axis] * mine
    sent["tensor"] += share["tensor"] * _summed(config, mesh) * item
    return sent


def _beside_tensor(leaf: Any, mesh: Any) -> float:
    """Returns the elements of a parameter that lie in one slice along `tensor`."""
    return leaf.size / (mesh.shape["tensor"] if "tensor" in leaf.sharding.spec else 1)


def _summed(config: RunConfig, mesh: Any) -> float:
    """Returns twice the activations that are summed over `tensor`: two sums per layer and pass."""
    model, examples = config.model, examples_per_device(config, mesh)
    views = len(config.loader.views) * config.loader.history
    length = flops.length(
        model, images=views, prefix=config.sequence.prefix, suffix=config.sequence.suffix
    )
    elements = model.decoder.depth * length * model.decoder.width
    for tower in (model.vision, model.fused_vision):
        if tower is not None:
            tokens = views * (tower.patches + tower.extra_tokens)
            elements += (tower.depth - tower.unused) * tokens * tower.width
    passes = 3 if model.remat == "full" else 2
    return 2 * 2 * passes * examples * elements


def _traffic(config: RunConfig, shapes: Shapes) -> float:
    """Returns the bytes that a device reads and writes at least: the state, weights and stream."""
    item, params = jnp.dtype(config.model.dtype).itemsize, jax.tree.leaves(shapes.params)
    weights = item * sum(_beside_tensor(leaf, shapes.mesh) for leaf in params)
    passes = 3 if config.model.remat == "full" else 2
    gradients = 2 * bytes_per_device(shapes.state.params)
    return (
        2 * bytes_per_device(shapes.state)
        + gradients
        + passes * config.optimizer.accumulate * weights
    )


def _rate(topology: Topology, axis: str, mesh: Any) -> float:
    """Returns the bytes/s at which a device sends along an axis.

    The last axes are the innermost: what spans several nodes goes through all network cards of
    each of them.
    """
    chip, node = topology.chip, topology.chip.node
    names = list(mesh.shape)
    span = math.prod(mesh.shape[name] for name in names[names.index(axis) :])
    if not node or span <= node:
        return chip.interconnect
    return min(chip.interconnect, node * chip.network)
