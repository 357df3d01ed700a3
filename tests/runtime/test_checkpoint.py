import errno
import os
import shutil
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


def test_training_goes_on_in_another_dtype_on_other_devices(saver):
    arrays = make_arrays(make_mesh(fsdp=4, tensor=2))
    saver.save(3, arrays, LOADER)
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=2), jax.devices()[:2])
    abstract = make_abstract(arrays, mesh, jnp.bfloat16)
    _, restored, _ = saver.restore(abstract | {"step": arrays["step"]})
    assert_same(restored["step"], arrays["step"])
    for item in ("params", "optimizer"):
        assert {leaf.dtype for leaf in jax.tree.leaves(restored[item])} == {jnp.dtype("bfloat16")}
        assert_same(restored[item], jax.tree.map(lambda x: x.astype(jnp.bfloat16), arrays[item]))
    assert restored["params"]["layer"]["kernel"].devices() == set(jax.devices()[:2])


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
    with checkpoint.Checkpoints(tmp_path) as reader:
        contents = list((tmp_path / "3" / "training").rglob("d/*"))
        assert contents
        for path in contents:
            path.unlink()  # Now the optimizer cannot be read any more.
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


def steps_in(directory):
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def test_every_so_manieth_checkpoint_stays(tmp_path):
    config = checkpoint.CheckpointConfig(keep=1, keep_every=4)
    arrays = make_arrays(make_mesh())
    with checkpoint.Checkpoints(tmp_path, config) as checkpoints:
        for step in range(2, 13, 2):
            checkpoints.save(step, arrays, {})
    assert steps_in(tmp_path) == [4, 8, 12]


@pytest.mark.parametrize(("best_is", "stays"), [("high", 2), ("low", 4)])
def test_the_best_checkpoint_stays_also_over_a_resumption(tmp_path, best_is, stays):
    config = checkpoint.CheckpointConfig(keep=1, best="success/seen", best_is=best_is)
    arrays = make_arrays(make_mesh())
    values = {1: None, 2: 0.9, 3: 0.5, 4: 0.1, 5: float("nan"), 6: None, 7: 0.4}
    for start in (1, 5):  # resumed behind step 4
        with checkpoint.Checkpoints(tmp_path, config) as checkpoints:
            for step in range(start, start + 4):
                if step in values:
                    checkpoints.save(step, arrays, {}, best=values[step])
    assert steps_in(tmp_path) == [stays, 7]


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


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A directory with the checkpoints of steps 1 and 2, filled with their step."""
    directory = tmp_path_factory.mktemp("two")
    with checkpoint.Checkpoints(directory, checkpoint.CheckpointConfig()) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, filled(step), {"index": step})
    return directory


def filled(step):
    return {"params": {"w": jnp.full((64, 64), float(step))}, "step": jnp.asarray(step)}


FILLED = {"params": {"w": struct(64, 64)}, "step": jax.ShapeDtypeStruct((), jnp.int32)}
# Every kind of file there is; the long names are drawn at random.
KINDS = (
    *("FILES.json", "_CHECKPOINT_METADATA", "params/_METADATA", "params/_sharding"),
    *("params/array_metadatas/*", "params/manifest.ocdbt", "params/d/*"),
    *("params/ocdbt.process_0/d/*", "params/ocdbt.process_0/manifest.ocdbt", "training/d/*"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", [None, 0.0, 0.5])
def test_a_checkpoint_with_a_damaged_file_gives_way_to_the_one_before(
    two, tmp_path, capsys, kind, left
):
    directory = tmp_path / "checkpoints"
    shutil.copytree(two, directory)
    victims = list((directory / "2").glob(kind))
    assert victims
    for path in victims:
        if left is None:
            path.unlink()
        else:
            os.truncate(path, int(path.stat().st_size * left))
    # Without its list a checkpoint counts as one from before there were lists: it is read.
    expected = 2 if (kind, left) == ("FILES.json", None) else 1
    with checkpoint.Checkpoints(directory) as reader:
        assert reader.latest_step() == expected
        step, arrays, loader = reader.restore(FILLED)
    assert (step, loader) == (expected, {"index": expected})
    assert_same(arrays, filled(expected))
    said = capsys.readouterr().out
    assert (f"{directory / '2'} is damaged" in said) == (expected == 1)
    if expected == 1:
        victim = str(victims[0].relative_to(directory / "2"))
        assert victim in said
        assert f"used: {directory / '1'}" in said


def test_a_damaged_step_is_saved_again_and_what_was_damaged_stays_aside(two, tmp_path):
    directory = tmp_path / "checkpoints"
    shutil.copytree(two, directory)
    (directory / "2" / "params" / "_METADATA").unlink()
    for _ in range(2):  # damaged a second time
        with checkpoint.Checkpoints(directory, checkpoint.CheckpointConfig()) as writer:
            assert writer.latest_step() == 1
            writer.save(2, filled(7), {"index": 7})
            step, arrays, _ = writer.restore(FILLED)
        assert step == 2
        assert_same(arrays["params"], filled(7)["params"])
        assert sorted(path.name for path in directory.iterdir()) == ["1", "2", "2.damaged"]
        (directory / "2" / "params" / "_METADATA").unlink()


def test_a_run_does_not_begin_anew_because_all_its_checkpoints_are_damaged(two, tmp_path):
    directory = tmp_path / "checkpoints"
    shutil.copytree(two, directory)
    for step in ("1", "2"):
        (directory / step / "_CHECKPOINT_METADATA").unlink()
    with pytest.raises(errors.UserError, match=r"only damaged ones \(steps 1, 2\)"):
        checkpoint.Checkpoints(directory, checkpoint.CheckpointConfig())
    assert sorted(path.name for path in directory.iterdir()) == ["1", "2"]


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


LIMITED = """
import json, resource, signal, sys
import jax, jax.numpy as jnp
from vla_jax.core.errors import UserError
from vla_jax.runtime import checkpoint

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit is an error, no signal
checkpoints = checkpoint.Checkpoints(sys.argv[1], checkpoint.CheckpointConfig())
arrays = {"params": {"w": jax.random.normal(jax.random.key(0), (300, 300))}}
checkpoints.save(1, arrays, {"index": 1})
assert checkpoints.latest_step() == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    with checkpoints:
        checkpoints.save(2, arrays, {"index": 2})
except UserError as error:
    print(error)
"""


def test_no_space_while_saving_costs_that_checkpoint_alone(tmp_path, quick_compile):
    # A limit of the process stands for a disk that fills up: writes fail half-way.
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        # The same random numbers to the last bit.
        env=os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {quick_compile}"},
    )
    assert run.returncode == 0, run.stderr
    (line,) = run.stdout.splitlines()
    assert line.startswith(f"cannot save in {tmp_path}: found ")
    assert "File too large" in line
    assert line.endswith("checkpoints saved before are whole.")
    assert "Traceback" not in run.stderr
    arrays = {"params": {"w": jax.random.normal(jax.random.key(0), (300, 300))}}
    with checkpoint.Checkpoints(tmp_path, checkpoint.CheckpointConfig()) as checkpoints:
        step, restored, _ = checkpoints.restore({"params": {"w": struct(300, 300)}})
        assert step == 1
        assert_same(restored, arrays)
        checkpoints.save(2, arrays, {"index": 2})  # there is space again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_directory_that_is_a_file_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(errors.UserError, match="cannot open"):
        checkpoint.Checkpoints(tmp_path / "file", checkpoint.CheckpointConfig())


@pytest.mark.parametrize("values", [{"every": 0}, {"keep": -1}, {"keep_every": 0}])
def test_config_is_checked(values):
    with pytest.raises(errors.UserError, match=r"expected 1\.\.2147483647, found"):
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
