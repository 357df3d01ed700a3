"""One bit of one file of a checkpoint is another: noticed, or nobody reads it."""

import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.runtime import checkpoint

CONFIG = checkpoint.CheckpointConfig(best="success/seen")


def made(step):
    """What is saved at a step: a large array, small ones, an optimizer, a position."""
    key = jax.random.key(step)
    params = {"w": jax.random.normal(key, (120, 120)), "scale": jnp.full(8, float(step))}
    arrays = {"params": params, "optimizer": {"m": params["w"] / 2}, "step": jnp.asarray(step)}
    return arrays, {"index": step, "seconds": 1.5 * step, "fingerprint": {"tabletop": f"ab{step}"}}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two")
    with checkpoint.Checkpoints(directory, CONFIG) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, *made(step), best=0.25 * step)
    return directory


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def read(directory, config=None):
    """Returns the step that is restored, after it was compared with what was saved."""
    abstract = jax.eval_shape(lambda: made(0)[0])
    with checkpoint.Checkpoints(directory, config) as checkpoints:
        step, arrays, position = checkpoints.restore(abstract)
        best = {found.step: found.metrics for found in checkpoints._checkpointer.checkpoints}
    expected, expected_position = made(step)
    jax.tree.map(np.testing.assert_array_equal, arrays, expected)
    assert position == expected_position
    assert best[step] == {"best": 0.25 * step}
    return step


def try_flips(two, tmp_path, capsys, count, seed):
    """Flips bits, one at a time; returns how many were noticed, and how many nobody reads."""
    rng = np.random.default_rng(seed)
    directory, tally = tmp_path / "checkpoints", {"noticed": 0, "not read": 0}
    files = sorted(path.relative_to(two) for path in (two / "2").rglob("*") if path.is_file())
    sizes = np.array([(two / file).stat().st_size for file in files])
    for number in range(count):
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(two, directory)
        # By turns any file, and any byte.
        shares = np.ones(len(files)) if number % 2 else sizes
        file = files[rng.choice(len(files), p=shares / shares.sum())]
        flip(directory / file, int(rng.integers(8 * os.path.getsize(directory / file))))
        capsys.readouterr()
        step = read(directory, CONFIG)
        said = f"checkpoint {directory / '2'} is damaged" in capsys.readouterr().out
        assert said == (step == 1), file
        tally["noticed" if said else "not read"] += 1
        if not said:  # when it was committed, and files whose being there is what counts
            assert file.name in ("commit_success.txt", "_CHECKPOINT_METADATA"), file
    return tally


def test_a_bit_that_flips_is_noticed_or_nobody_reads_it(two, tmp_path, capsys):
    tally = try_flips(two, tmp_path, capsys, count=60, seed=0)
    assert tally["noticed"] > 50


@pytest.mark.slow
def test_many_bits_that_flip(two, tmp_path, capsys):
    tally = try_flips(two, tmp_path, capsys, count=600, seed=1)
    with capsys.disabled():
        print(tally)  # noqa: T201
    assert tally["noticed"] > 500


def test_of_damaged_parameters_alone_a_reader_takes_those_before(two, tmp_path, capsys):
    abstract = jax.eval_shape(lambda: made(0)[0])
    for item, expected in {"params": 1, "training": 2}.items():
        directory = tmp_path / item
        shutil.copytree(two, directory)
        (victim,) = (directory / "2" / item).glob("ocdbt.process_0/d/*")
        flip(victim, 8 * 1000)
        with checkpoint.Checkpoints(directory) as reader:
            assert reader.latest_step() == expected
            params = reader.restore_params(abstract["params"])
            np.testing.assert_array_equal(params["w"], made(expected)[0]["params"]["w"])
            capsys.readouterr()
            assert reader.restore(abstract)[0] == 1  # what it did not compare at first
        if item == "training":
            said = capsys.readouterr().out
            assert f"{directory / '2'} is damaged: training/ocdbt.process_0/d/{victim.name}" in said
            with pytest.raises(UserError, match="expected step 2, whole, found a damaged one"):
                checkpoint.Checkpoints(directory).restore(abstract, 2)


def test_one_bit_in_each_leaves_none(two, tmp_path):
    directory = tmp_path / "checkpoints"
    shutil.copytree(two, directory)
    for step in ("1", "2"):
        flip(directory / step / "params" / "_METADATA", 77)
    for config in (None, CONFIG):
        with pytest.raises(UserError, match=r"expected a whole one, found only damaged ones"):
            checkpoint.Checkpoints(directory, config)


def test_an_older_one_that_is_damaged_does_not_stop_a_run(two, tmp_path, capsys):
    directory = tmp_path / "checkpoints"
    shutil.copytree(two, directory)
    (directory / "1" / "metrics" / "metrics").write_bytes(b"\xff\xfe{")
    assert read(directory, CONFIG) == 2
    assert "damaged: metrics/metrics" in capsys.readouterr().out
    assert sorted(path.name for path in directory.iterdir()) == ["1.damaged", "2"]


def test_checkpoints_of_versions_without_checksums_are_read_and_it_is_said(two, tmp_path, capsys):
    directory = tmp_path / "checkpoints"
    shutil.copytree(two, directory)
    (directory / "2" / "FILES.json").unlink()
    assert read(directory, CONFIG) == 2
    assert "is of an older version: no checksums to compare" in capsys.readouterr().out
