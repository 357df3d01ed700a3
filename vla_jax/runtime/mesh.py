"""The device mesh: four named axes, of which every sharding in the project is made.

`slice` and `data` replicate parameters and split the batch, `fsdp` splits both, `tensor` splits the
heads and the hidden width of every layer.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
from jax.experimental import mesh_utils

from vla_jax.core import errors
from vla_jax.core.fields import Checked, Range

AXES = ("slice", "data", "fsdp", "tensor")
Axis = Annotated[int, Range(1, 2**20, also=-1)]
_KINDS = (jax.sharding.AxisType.Auto,) * len(AXES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig(Checked):
    """How many devices lie along each mesh axis.

    Attributes:
      slice: TPU slices, between which the network is slow: each has copies of the parameters.
      data: copies of the parameters; -1 takes all devices that the other axes leave.
      fsdp: slices of the parameters and the batch; -1 likewise.
      tensor: slices of each layer; -1 likewise. Keep it within one host.
      cpu_devices: into how many devices a CPU counts as. One per core is faster than one device
        with as many threads, and a fixed number gives the same results on every machine.
    """

    slice: Axis = 1
    data: Axis = -1
    fsdp: Axis = 1
    tensor: Axis = 1
    cpu_devices: Annotated[int, Range(1, 1024)] = 1

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """The mesh axes' sizes, in the order of `AXES`."""
        return self.slice, self.data, self.fsdp, self.tensor

    def __post_init__(self):
        """Checks the sizes.

        Raises:
          UserError: an axis is neither -1 nor positive, or two are -1.
        """
        super().__post_init__()
        sizes = self.sizes
        if sizes.count(-1) > 1:
            raise errors.UserError(
                f"mesh {'x'.join(map(str, sizes))}",
                expected="at most one axis of size -1",
                found=", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True)),
            )


def split_cpu(config: MeshConfig) -> None:
    """Makes a CPU count as `config.cpu_devices` devices; to be called before JAX is used.

    A number forced from outside (`XLA_FLAGS`) stands. Other platforms are not affected.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", config.cpu_devices)


def shape(config: MeshConfig, devices: int) -> tuple[int, ...]:
    """Returns the axis sizes of a mesh of so many devices, in the order of `AXES`.

    Raises:
      UserError: the axis sizes do not use up the devices exactly.
    """
    sizes = config.sizes
    known = math.prod(size for size in sizes if size != -1)
    rest, over = divmod(devices, known)
    if over or rest < 1 or (-1 not in sizes and rest != 1):
        raise errors.UserError(
            f"mesh {', '.join(f'{axis}={size}' for axis, size in zip(AXES, sizes, strict=True))}",
            expected=f"axis sizes that multiply to the {devices} devices",
            found=f"a product of {known}" + (" before the -1" if -1 in sizes else ""),
            fix="Set one axis to -1 to take all remaining devices",
        )
    return tuple(rest if size == -1 else size for size in sizes)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """Lays the devices out as a mesh.

    Args:
      config: the size of each axis.
      devices: the `jax.Device`s to use; all devices of all processes when None.

    Returns:
      A mesh with the axes `AXES`, all of them of type Auto.

    Raises:
      UserError: the axis sizes do not use up the devices exactly, or there is another number of
        TPU slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = shape(config, len(devices))
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if len(slices) > 1:
        if len(slices) != config.slice:
            raise errors.UserError(
                "config.mesh.slice", expected=f"{len(slices)}, as there are", found=config.slice
            )
        laid_out = mesh_utils.create_hybrid_device_mesh(
            (1, *sizes[1:]), (sizes[0], 1, 1, 1), devices, allow_split_physical_axes=True
        )
        return jax.sharding.Mesh(laid_out, AXES, axis_types=_KINDS)
    # A mesh axis may take a part of a physical one (tensor 4 on an 8x8x8 torus), which
    # `jax.make_mesh` refuses on most TPUs.
    laid_out = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return jax.sharding.Mesh(laid_out, AXES, axis_types=_KINDS)


def abstract_mesh(config: MeshConfig, devices: int) -> Any:
    """Returns the mesh of devices that are not here, good for shapes and shardings.

    Raises:
      UserError: as `make_mesh`.
    """
    return jax.sharding.AbstractMesh(shape(config, devices), AXES, axis_types=_KINDS)


def under(mesh: jax.sharding.Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function, to be jitted, in which `jax.shard_map` knows the mesh."""

    @functools.wraps(function)
    def call(*inputs: Any, **named: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*inputs, **named)

    return call
