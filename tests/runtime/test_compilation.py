import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vla_jax.runtime import compilation


@pytest.fixture
def watched():
    return compilation.Watched(
        jax.jit(lambda state, batch: {"w": state["w"] + batch["x"].sum()}, donate_argnums=0),
        "the train step",
    )


def state():
    return {"w": jnp.zeros(3)}


def test_one_program_is_nothing_to_warn_of(watched, capsys):
    carried = state()
    for _ in range(3):
        carried = watched(carried, {"x": np.ones(4, np.float32)})
    np.testing.assert_array_equal(carried["w"], [12, 12, 12])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("batch", "cause"),
    [
        ({"x": np.ones(5, np.float32)}, "1/x was float32[4] on the host, is float32[5] on"),
        ({"x": np.ones(4, np.int32)}, "1/x was float32[4] on the host, is int32[4] on the host"),
        (
            {"x": np.ones(4, np.float32), "y": np.ones(2, np.int8)},
            "1/y was absent, is int8[2] on the host",
        ),
    ],
)
def test_a_second_program_is_told_with_its_cause(watched, capsys, batch, cause):
    carried = watched(state(), {"x": np.ones(4, np.float32)})
    watched(carried, batch)
    said = capsys.readouterr().out
    assert "warning: the train step was compiled again (2 programs now): " in said
    assert cause in said
    assert "0/w" not in said  # which has not changed, and was donated


def test_another_sharding_is_a_cause(watched, capsys):
    watched(state(), {"x": np.ones(8, np.float32)})
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    watched(jax.device_put(state(), whole), {"x": jax.device_put(np.ones(8, np.float32), split)})
    assert "spec=P('data',)" in capsys.readouterr().out


def test_a_setting_of_jax_is_a_cause(watched, capsys):
    inputs = {"x": np.ones(4, np.float32)}
    watched(state(), inputs)
    with jax.default_matmul_precision("float32"):
        watched(state(), inputs)
    assert "no input changed; a global setting of JAX did" in capsys.readouterr().out
