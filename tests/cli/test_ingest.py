"""`vla-jax ingest`: a dry run that writes nothing, a table at the end, one line for a mistake."""

import json

import numpy as np
import pytest

from vla_jax.data.records import import_tfds

h5py = pytest.importorskip("h5py")


@pytest.fixture
def source(tmp_path):
    """A LIBERO file of five episodes."""
    with h5py.File(tmp_path / "lift_it_demo.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": "lift it"})
        for e in range(5):
            obs = data.create_group(f"demo_{e}/obs")
            for name in ("agentview_rgb", "eye_in_hand_rgb"):
                obs[name] = np.full((3, 16, 16, 3), 50 * e, np.uint8)
            for name, size in (("ee_pos", 3), ("ee_ori", 3), ("gripper_states", 2)):
                obs[name] = np.full((3, size), 0.5)
            obs["joint_states"] = np.zeros((3, 7))
            data[f"demo_{e}/actions"] = np.full((3, 7), e / 10)
    return tmp_path / "lift_it_demo.hdf5"


def flags_of(out, *more):
    return "--format=libero_hdf5", f"--out={out}", "--name=lift", *more


def test_a_dry_run_shows_three_episodes_and_writes_nothing(vla_jax, source, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, out, err = vla_jax("ingest", str(source), "--format=libero_hdf5", "--dry-run")
    assert (code, err) == (0, "")
    assert "the first 3 of 5 episodes" in out
    for text in ("steps: 3, 3, 3", "instruction: lift it", "turned by 180 degrees"):
        assert text in out
    rows = {line.split()[1]: line for line in out.splitlines() if "observation/" in line}
    assert "JPEG 16x16" in rows["observation/image"]
    assert "float32 [8]" in rows["observation/state"]
    assert "0.2 0.2 0.2 0.2 0.2 0.2 0.2" in out  # the highest action of three episodes, not five
    assert sorted(tmp_path.rglob("*")) == before


def test_it_writes_a_tfds_dataset_and_says_how_to_index_it(vla_jax, source, tmp_path):
    code, out, err = vla_jax("ingest", str(source), *flags_of(tmp_path / "data"))
    assert (code, err) == (0, "")
    directory = tmp_path / "data/lift/1.0.0"
    builder = import_tfds().builder_from_directory(directory)
    assert builder.info.splits["train"].num_examples == 5
    assert builder.info.features["steps"]["observation"]["image"]._encoding_format == "jpeg"
    assert f"index it: vla-jax index {directory}" in out
    rows = [line.split() for line in out.splitlines()]
    assert [row[-2] for row in rows if "steps" in row] == ["15"]


def test_lossless_images_are_png(vla_jax, source, tmp_path):
    code, _, _ = vla_jax("ingest", str(source), *flags_of(tmp_path / "data", "--lossless"))
    assert code == 0
    builder = import_tfds().builder_from_directory(tmp_path / "data/lift/1.0.0")
    frame = next(iter(next(iter(builder.as_dataset("train")))["steps"]))["observation"]["image"]
    assert len(np.unique(frame.numpy())) == 1


def test_an_episode_left_out_is_counted_and_named(vla_jax, source, tmp_path):
    with h5py.File(source, "a") as file:
        file["data/demo_1/actions"][2, 6] = np.nan
    code, out, _ = vla_jax("ingest", str(source), *flags_of(tmp_path, "--on-corrupt=skip"))
    assert code == 0
    assert "left out: " in out
    assert "demo_1 step 2: action dimension [6]: expected a finite number, found nan" in out


def test_a_dry_run_tells_what_would_be_left_out(vla_jax, refused, source):
    with h5py.File(source, "a") as file:
        file["data/demo_1/actions"][2, 6] = np.nan
    flags = (str(source), "--format=libero_hdf5", "--dry-run")
    assert "To leave it out: --on_corrupt=skip" in refused("ingest", *flags)
    code, out, err = vla_jax("ingest", *flags, "--on-corrupt=skip")
    assert (code, err) == (0, "")
    assert "the first 3 of 5 episodes, 1 damaged ones passed over" in out
    assert "would be left out: " in out
    assert "demo_1 step 2: action dimension [6]" in out
    assert "not read, sound or not: the other 1 episodes" in out
    assert "at most 0" in refused("ingest", *flags, "--on-corrupt=skip", "--max-skipped=0")


def test_mistakes_are_told_in_one_line(refused, source, tmp_path):
    assert "expected --format=..." in refused("ingest", str(source))
    assert "lerobot" in refused("ingest", str(source), "--format=zarr")
    named = refused("ingest", str(source), *flags_of(tmp_path), "--name=A b")
    assert "lower-case letters, digits and _, a letter first, found 'A b'" in named
    assert "expected --out=..." in refused("ingest", str(source), "--format=libero_hdf5")
    assert "no such file or folder" in refused("ingest", "nowhere", *flags_of(tmp_path))
    with h5py.File(source, "a") as file:
        file["data/demo_4/actions"][0, 0] = np.inf
    message = refused("ingest", str(source), *flags_of(tmp_path / "data"))
    assert f"{source} demo_4 step 0: action dimension [0]" in message
    assert not (tmp_path / "data" / "lift").exists()
