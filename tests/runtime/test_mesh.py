import jax
import pytest

from vla_jax.core import errors
from vla_jax.runtime import mesh


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (8, 1, 1)),
        ({"fsdp": 4, "tensor": 2}, (1, 4, 2)),
        ({"data": 1, "fsdp": -1, "tensor": 2}, (1, 4, 2)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 2)),
    ],
)
def test_shapes(sizes, shape):
    made = mesh.make_mesh(mesh.MeshConfig(**sizes))
    assert made.axis_names == ("data", "fsdp", "tensor")
    assert made.devices.shape == shape
    assert set(made.axis_types) == {jax.sharding.AxisType.Auto}


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


@pytest.mark.parametrize("sizes", [{"fsdp": -1}, {"data": 0}, {"tensor": -2}])
def test_sizes_that_make_no_sense_are_refused(sizes):
    with pytest.raises(errors.UserError, match="at most one of them -1"):
        mesh.MeshConfig(**sizes)
