import errno
import os
import signal
import subprocess
import sys
import textwrap
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vla_jax.core import errors, trees
from vla_jax.runtime import checkpoint, sharding
from vla_jax.runtime import mesh as mesh_lib

AXES = {"layer": {"kernel": ("embed", "mlp")}, "scale": ("norm",)}
LOADER = {"index": 7, "fingerprint": "abc"}


def make_mesh(**sizes):
    return mesh_lib.make_mesh(mesh_lib.MeshConfig(**sizes))


def make_arrays(mesh, seed=0):
    params = {
        "layer": {"kernel": jax.random.normal(jax.random.key(seed), (16, 8))},
        "scale": jnp.arange(8.0),
    }
    params = jax.device_put(params, sharding.shardings(params, AXES, mesh))
    return {
        "params": params,
        "optimizer": optax.adam(1e-3).init(params),
        "step": jnp.asarray(3, jnp.int32),
    }


def make_abstract(arrays, mesh, dtype=None):
    params = arrays["params"]
    places = sharding.shardings(params, AXES, mesh)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=place),
        arrays,
        sharding.like(arrays, params, places),
    )


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture
def saver(tmp_path):
    with checkpoint.Checkpoints(tmp_path, checkpoint.CheckpointConfig(keep=2)) as checkpoints:
        yield checkpoints


def test_comes_back_onto_another_mesh(saver):
    arrays = make_arrays(make_mesh(fsdp=4, tensor=2))
    saver.save(3, arrays, LOADER)
    abstract = make_abstract(arrays, make_mesh(data=2, fsdp=2, tensor=2))
    step, restored, loader = saver.restore(abstract)
    assert (step, loader) == (3, LOADER)
    assert_same(restored, arrays)
    found = {name: leaf.sharding for name, leaf in trees.named_leaves(restored).items()}
    assert found == {name: leaf.sharding for name, leaf in trees.named_leaves(abstract).items()}


def test_comes_back_in_another_dtype(saver):
    arrays = make_arrays(make_mesh())
    saver.save(3, arrays, LOADER)
    abstract = make_abstract(arrays, make_mesh(), jnp.bfloat16)["params"]
    restored = saver.restore_params(abstract)
    assert restored["layer"]["kernel"].dtype == jnp.bfloat16
    assert_same(restored, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), arrays["params"]))


def test_without_a_sharding_comes_to_one_device(saver):
    arrays = make_arrays(make_mesh(fsdp=-1, data=1))
    saver.save(3, arrays, LOADER)
    shapes = jax.eval_shape(lambda: arrays["params"])
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shapes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restored = saver.restore_params(abstract)
    assert restored["scale"].devices() == {jax.devices()[0]}
    assert_same(restored, arrays["params"])


def test_params_are_read_without_the_optimizer(saver, tmp_path):
    arrays = make_arrays(make_mesh())
    saver.save(3, arrays, LOADER)
    abstract = make_abstract(arrays, make_mesh())["params"]
    saver.close()
    contents = list((tmp_path / "3" / "training").rglob("d/*"))
    assert contents
    for path in contents:
        path.unlink()  # Now the optimizer cannot be read any more.
    with checkpoint.Checkpoints(tmp_path) as reader:
        assert_same(reader.restore_params(abstract), arrays["params"])


def test_arrays_may_be_donated_once_save_returns(saver):
    arrays = make_arrays(make_mesh(fsdp=-1, data=1))
    expected = jax.tree.map(np.array, arrays)
    abstract = make_abstract(arrays, make_mesh())
    update = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    saver.save(3, arrays, LOADER)
    for _ in range(3):
        arrays = update(arrays)
    assert_same(saver.restore(abstract)[1], expected)


def test_old_checkpoints_go(saver, tmp_path):
    mesh = make_mesh()
    by_step = {step: make_arrays(mesh, seed=step) for step in (1, 2, 3, 4)}
    for step, arrays in by_step.items():
        saver.save(step, arrays, {"index": step})
    assert saver.latest_step() == 4
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["3", "4"]
    step, restored, loader = saver.restore(make_abstract(by_step[3], mesh), step=3)
    assert (step, loader) == (3, {"index": 3})
    assert_same(restored, by_step[3])
    with pytest.raises(errors.UserError, match="expected step 1, found steps 3, 4"):
        saver.restore(make_abstract(by_step[1], mesh), step=1)


def test_a_saved_step_is_kept(saver):
    mesh = make_mesh()
    saver.save(3, make_arrays(mesh, seed=0), {"index": 0})
    saver.save(3, make_arrays(mesh, seed=1), {"index": 1})
    arrays = make_arrays(mesh, seed=0)
    _, restored, loader = saver.restore(make_abstract(arrays, mesh))
    assert loader == {"index": 0}
    assert_same(restored, arrays)


def test_an_empty_directory(saver):
    assert saver.latest_step() is None
    with pytest.raises(errors.UserError, match="found none"):
        saver.restore(make_abstract(make_arrays(make_mesh()), make_mesh()))


def test_reading_wants_an_existing_directory(tmp_path):
    with pytest.raises(errors.UserError, match="expected an existing directory"):
        checkpoint.Checkpoints(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_reader_does_not_save(saver, tmp_path):
    with (
        checkpoint.Checkpoints(tmp_path) as reader,
        pytest.raises(ValueError, match="opened for reading"),
    ):
        reader.save(1, make_arrays(make_mesh()), LOADER)


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": {"layer": {"bias": struct(3)}}}, "params/layer/bias: expected shape .3,., "),
        ({"params": {"scale": struct(8)}}, "params/layer/kernel: expected no such leaf"),
        (
            {"params": {"layer": {"kernel": struct(16, 4)}, "scale": struct(8)}},
            r"params/layer/kernel: expected shape \(16, 4\), found shape \(16, 8\)",
        ),
        ({"optimizer": {"moment": struct(8)}}, "leaf optimizer/moment: .*found no such leaf"),
    ],
)
def test_a_tree_that_does_not_fit_is_named(saver, change, message):
    arrays = make_arrays(make_mesh())
    saver.save(3, arrays, LOADER)
    with pytest.raises(errors.UserError, match=message):
        saver.restore(make_abstract(arrays, make_mesh()) | change)


def test_arrays_without_params_are_refused(saver):
    with pytest.raises(ValueError, match="no 'params'"):
        saver.save(1, {"optimizer": {}}, LOADER)


def fill_the_disk(monkeypatch, saver, method):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(saver._checkpointer, method, full)


FULL = "No space left on device. Free some space"


def test_a_disk_that_is_full_at_once_is_a_user_error(saver, monkeypatch):
    fill_the_disk(monkeypatch, saver, "save_checkpointables_async")
    with pytest.raises(errors.UserError, match=f"cannot save step 1 .*{FULL}"):
        saver.save(1, make_arrays(make_mesh()), LOADER)


def test_a_disk_that_fills_in_the_background_is_a_user_error(saver, monkeypatch):
    saver.save(1, make_arrays(make_mesh()), LOADER)
    saver.latest_step()
    fill_the_disk(monkeypatch, saver, "wait")
    with pytest.raises(errors.UserError, match=FULL):
        saver.latest_step()


def test_a_directory_that_is_a_file_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(errors.UserError, match="cannot open"):
        checkpoint.Checkpoints(tmp_path / "file", checkpoint.CheckpointConfig())


@pytest.mark.parametrize("values", [{"every": 0}, {"keep": -1}])
def test_config_is_checked(values):
    with pytest.raises(errors.UserError, match="expected a positive number"):
        checkpoint.CheckpointConfig(**values)


KILLED = """
import os, signal, sys
import jax.numpy as jnp
from orbax.checkpoint._src.path import atomicity
from vla_jax.runtime import checkpoint

checkpoints = checkpoint.Checkpoints(sys.argv[1], checkpoint.CheckpointConfig())
arrays = {"params": {"w": jnp.ones(8)}, "step": jnp.asarray(1)}
checkpoints.save(1, arrays, {"index": 1})
assert checkpoints.latest_step() == 1

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)  # Everything is written, nothing committed.

for name in dir(atomicity):
    kind = getattr(atomicity, name)
    if isinstance(kind, type) and "finalize" in vars(kind):
        kind.finalize = die
checkpoints.save(2, arrays, {"index": 2})
checkpoints.close()
"""


def test_a_save_cut_short_by_a_kill_is_ignored(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    leftovers = {path.name for path in tmp_path.iterdir()} - {"1"}
    assert leftovers, "the kill came too early or too late to test anything"
    abstract = {"params": {"w": struct(8)}, "step": jax.ShapeDtypeStruct((), jnp.int32)}
    with checkpoint.Checkpoints(tmp_path) as reader:
        assert reader.latest_step() == 1
        assert reader.restore(abstract)[2] == {"index": 1}
    assert {path.name for path in tmp_path.iterdir()} - {"1"} == leftovers
    with checkpoint.Checkpoints(tmp_path, checkpoint.CheckpointConfig()) as writer:
        assert writer.latest_step() == 1
        writer.save(2, {"params": {"w": jnp.zeros(8)}, "step": jnp.asarray(2)}, {"index": 2})
        step, arrays, loader = writer.restore(abstract)
    assert (step, loader) == (2, {"index": 2})
    assert trees.named_leaves(arrays)["params/w"].sum() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
