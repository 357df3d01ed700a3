"""Logical axes to shardings: which axis of which array lies along which mesh axis.

A parameter says what its axes mean (`embed`, `mlp`, `heads`, ...); one table says where each
meaning goes. Nothing else in the project names a mesh axis.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vla_jax.core import errors, trees
from vla_jax.core.arrays import Array

P = jax.sharding.PartitionSpec

# Logical axis -> mesh axis. An axis that is not listed, or is listed as None, is replicated.
RULES: Mapping[str, str | None] = {
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "vocab": "tensor",
    "kv": None,  # One or a few key-value heads: too few to split.
    "head_dim": None,
    "layers": None,  # Scanned over: a split layer axis would move every layer at every step.
    "norm": None,
    "patch": None,
    "window": None,  # Rows and columns of a convolution.
    "position": None,
    "rank": None,
    "context": None,
    "squeezed": None,
}

# The mesh axes over which the examples of a batch are spread.
BATCH_AXES = ("slice", "data", "fsdp")
_COPIES = ("slice", "data")  # those of the parameters


def partition_spec(
    shape: Sequence[int],
    axes: Sequence[str | None],
    mesh: jax.sharding.Mesh,
    rules: Mapping[str, str | None] = RULES,
) -> jax.sharding.PartitionSpec:
    """Places one array.

    Args:
      shape: the shape of the array.
      axes: the logical name of each of its axes, None for an axis without one.
      mesh: the mesh with the axes that the rules name.
      rules: logical axis -> mesh axis.

    Returns:
      A spec with one entry per axis. No mesh axis occurs twice (the first axis that asks for it
      gets it), and an axis whose size the mesh axis does not divide is replicated.

    Raises:
      ValueError: there is not one logical axis per axis of the array.
    """
    return _place(shape, axes, mesh, rules)[0]


def shardings(
    abstract: Any,
    axes: Any,
    mesh: jax.sharding.Mesh,
    rules: Mapping[str, str | None] = RULES,
) -> Any:
    """Places a tree of parameters.

    Args:
      abstract: a pytree of arrays or `jax.ShapeDtypeStruct`.
      axes: the same structure with a tuple of logical axis names in place of each leaf.
      mesh: the mesh.
      rules: logical axis -> mesh axis.

    Returns:
      A pytree of NamedSharding with the structure of `abstract`.

    Raises:
      ValueError: some leaf has not one logical axis per axis.
    """

    def place(name: str, leaf: Any, leaf_axes: tuple[str | None, ...]) -> Any:
        try:
            return jax.sharding.NamedSharding(
                mesh, partition_spec(leaf.shape, leaf_axes, mesh, rules)
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    return trees.map_with_name(place, abstract, axes)


def fallbacks(
    abstract: Any,
    axes: Any,
    mesh: jax.sharding.Mesh,
    rules: Mapping[str, str | None] = RULES,
) -> list[str]:
    """Reports what `shardings` replicates although the rules would split it.

    Args:
      abstract: as in `shardings`.
      axes: as in `shardings`.
      mesh: the mesh.
      rules: logical axis -> mesh axis.

    Returns:
      One line per such array axis, worth logging once at start.
    """
    lines: list[str] = []

    def collect(name: str, leaf: Any, leaf_axes: tuple[str | None, ...]) -> None:
        refused = _place(leaf.shape, leaf_axes, mesh, rules)[1]
        lines.extend(f"{name}: {reason}" for reason in refused)

    trees.map_with_name(collect, abstract, axes)
    return lines


def like(tree: Any, params: Any, param_shardings: Any) -> Any:
    """Places what mirrors the parameters, such as optimizer moments.

    Args:
      tree: a pytree of arrays or `jax.ShapeDtypeStruct`.
      params: the parameters, or their `jax.ShapeDtypeStruct`s.
      param_shardings: the NamedShardings of the parameters, in the structure of `params`.

    Returns:
      A pytree of NamedSharding with the structure of `tree`. A leaf whose name ends with the
      name of a parameter and has its shape lies like that parameter; all others (counters,
      factored moments) are replicated.
    """
    shapes = {name: leaf.shape for name, leaf in trees.named_leaves(params).items()}
    places = trees.named_leaves(param_shardings)
    replicated = jax.sharding.NamedSharding(next(iter(places.values())).mesh, P())

    def place(name: str, leaf: Any) -> jax.sharding.NamedSharding:
        parts = name.split("/")
        # From the longest ending to the shortest: `mu/decoder/bias` is not the parameter `bias`.
        for start in range(len(parts)):
            ending = "/".join(parts[start:])
            if ending in shapes:
                return places[ending] if leaf.shape == shapes[ending] else replicated
        return replicated

    return trees.map_with_name(place, tree)


def batch_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    """Returns the sharding of a batch: its leading axis spread over `BATCH_AXES`."""
    return jax.sharding.NamedSharding(mesh, P(BATCH_AXES))


def batch_part(mesh: jax.sharding.Mesh) -> tuple[int, int]:
    """Returns which part of every batch this process has to provide, and of how many.

    Processes between which only `tensor` is split provide the same part.

    Raises:
      UserError: the parts of two processes overlap without being the same.
    """
    by_slice = mesh.devices.reshape(-1, mesh.shape["tensor"])
    slices: dict[int, list[int]] = {}
    for number, devices in enumerate(by_slice):
        for process in dict.fromkeys(device.process_index for device in devices):
            slices.setdefault(process, []).append(number)
    parts = sorted(set(map(tuple, slices.values())))
    if sum(map(len, parts)) != len(by_slice) or len(set(map(len, parts))) != 1:
        raise errors.UserError(
            f"mesh {dict(mesh.shape)}",
            expected="processes that hold equal parts of a batch",
            found=f"the parts {', '.join(map(str, parts))} of {len(by_slice)}",
            fix="Keep the tensor axis within a process, or spread it over whole ones",
        )
    return parts.index(tuple(slices[jax.process_index()])), len(parts)


def keep_batch(x: Array) -> Array:
    """Keeps the examples of an activation, its leading axis, where those of the batch lie.

    Left to itself the compiler may take the slices of the parameters for those of the activations:
    every device then computes all examples, on a slice of their features. To be called where a
    mesh is known (`mesh.under`); elsewhere, and where they do not divide, it changes nothing.
    """
    return _constrain(x, P(BATCH_AXES, *(None,) * (x.ndim - 1)))


def lookup(table: Array, tokens: Array, dtype: jnp.dtype) -> Array:
    """Returns rows of a table, [v, d] and int [b, t] -> [b, t, d], in `dtype`.

    Where the columns of the table are sliced, every device looks up its slice for all examples of
    its copy of the table, and rows go where examples lie: neither the table nor its gradient, which
    is as large, is ever put together.
    """
    tokens = _constrain(tokens, P(_COPIES, None))
    rows = _constrain(table[tokens], P(_COPIES, None, "fsdp"))
    return keep_batch(rows.astype(dtype))


def by_rows(x: Array, table: Any) -> tuple[Array, Any]:
    """Prepares the product of x [b, n, d] with all rows of a table [v, d].

    A vocabulary is larger than the tokens of a batch that are asked for, so it is `x` that goes to
    the slices: each device takes some rows of the table and all examples of its copy. Neither the
    table nor its gradient is put together. Where rows do not divide, nothing changes.
    """
    if not isinstance(table, jax.Array):
        return x, table
    table = table.astype(x.dtype)
    sliced = _constrain(table, P(("tensor", "fsdp"), None))
    if sliced is table:
        return x, table
    return _constrain(x, P(_COPIES, None, None)), sliced


def _constrain(x: Array, spec: jax.sharding.PartitionSpec) -> Array:
    """Places an array inside a jitted function; itself where no mesh is known or it is uneven."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    for size, names in zip(x.shape, spec, strict=True):
        axes = (names,) if isinstance(names, str) else names or ()
        if size % math.prod(mesh.shape[axis] for axis in axes):
            return x
    return jax.lax.with_sharding_constraint(x, spec)


def place(batch: Any, mesh: jax.sharding.Mesh) -> Any:
    """Moves the examples of this process to its devices, as its part of a global batch.

    Args:
      batch: a pytree of numpy arrays, each with the examples of this process along its
        leading axis.
      mesh: the mesh.

    Returns:
      A pytree of global `jax.Array`, split along the leading axis.

    Raises:
      UserError: the examples do not divide evenly among the devices of this process.
    """
    sharding = batch_sharding(mesh)
    slices = _local_slices(mesh)

    def move(name: str, array: np.ndarray) -> jax.Array:
        if array.shape[0] % slices:
            raise errors.UserError(
                f"batch {name}",
                expected=f"a multiple of {slices} examples per process "
                "(slice x data x fsdp of the mesh)",
                found=array.shape[0],
                fix="Change the batch size or the mesh",
            )
        return jax.make_array_from_process_local_data(sharding, array)

    return trees.map_with_name(move, batch)


def _place(
    shape: Sequence[int],
    axes: Sequence[str | None],
    mesh: jax.sharding.Mesh,
    rules: Mapping[str, str | None],
) -> tuple[jax.sharding.PartitionSpec, list[str]]:
    """Returns the spec and why some axes are replicated against the rules."""
    if len(shape) != len(axes):
        raise ValueError(f"shape {tuple(shape)} has {len(shape)} axes, named {tuple(axes)}")
    spec: list[str | None] = []
    refused: list[str] = []
    for size, axis in zip(shape, axes, strict=True):
        target = None if axis is None else rules.get(axis)
        if axis is not None and axis not in rules:
            refused.append(f"axis {axis} of {size} replicated, no rule names it")
        if target in spec:
            target = None  # One array axis per mesh axis, the first that asks.
        elif target is not None and size % mesh.shape[target]:
            refused.append(
                f"axis {axis} of {size} replicated, {target} of {mesh.shape[target]} "
                "does not divide it"
            )
            target = None
        spec.append(target)
    return P(*spec), refused


def _local_slices(mesh: jax.sharding.Mesh) -> int:
    """Counts the batch slices that this process holds; `tensor` neighbours share one."""
    mine = [device.process_index == jax.process_index() for device in mesh.devices.flat]
    return int(np.reshape(mine, mesh.devices.shape).any(axis=-1).sum())
