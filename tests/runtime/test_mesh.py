import dataclasses

import jax
import pytest

from vla_jax.core import errors
from vla_jax.runtime import mesh


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (1, 8, 1, 1)),
        ({"fsdp": 4, "tensor": 2}, (1, 1, 4, 2)),
        ({"data": 1, "fsdp": -1, "tensor": 2}, (1, 1, 4, 2)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, (1, 2, 2, 2)),
        ({"slice": 2, "fsdp": 2}, (2, 2, 2, 1)),
    ],
)
def test_shapes(sizes, shape):
    made = mesh.make_mesh(mesh.MeshConfig(**sizes))
    assert made.axis_names == ("slice", "data", "fsdp", "tensor")
    assert made.devices.shape == shape
    assert set(made.axis_types) == {jax.sharding.AxisType.Auto}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One of the four chips of a slice, as the runtime describes it."""

    slice_index: int
    id: int
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"

    @property
    def process_index(self):
        return self.slice_index

    @property
    def coords(self):
        return self.id % 2, self.id % 4 // 2, 0


def test_slices_of_tpus_lie_along_their_axis():
    devices = [Chip(slice_index=s, id=4 * s + n) for n in range(4) for s in range(2)]
    made = mesh.make_mesh(mesh.MeshConfig(slice=2, fsdp=2, tensor=2), devices)
    assert made.devices.shape == (2, 1, 2, 2)
    for number in range(2):
        assert {device.slice_index for device in made.devices[number].flat} == {number}
    with pytest.raises(errors.UserError, match=r"mesh\.slice: expected 2, as there are, found 1"):
        mesh.make_mesh(mesh.MeshConfig(fsdp=-1, data=1), devices)


def test_a_mesh_of_some_devices():
    made = mesh.make_mesh(mesh.MeshConfig(tensor=2), devices=jax.devices()[2:4])
    assert list(made.devices.flat) == jax.devices()[2:4]


@pytest.mark.parametrize(
    "sizes",
    [{"fsdp": 3}, {"fsdp": 16}, {"data": 2}, {"data": 16}, {"data": 4, "fsdp": 4}],
)
def test_sizes_that_do_not_use_the_devices_up_are_refused(sizes):
    with pytest.raises(errors.UserError, match="multiply to the 8 devices"):
        mesh.make_mesh(mesh.MeshConfig(**sizes))


@pytest.mark.parametrize("sizes", [{"fsdp": -1}, {"data": 0, "fsdp": 2}, {"tensor": -2}])
def test_sizes_that_make_no_sense_are_refused(sizes):
    with pytest.raises(errors.UserError, match=r"at most one axis of size -1|1\.\.1048576 or -1"):
        mesh.MeshConfig(**sizes)
