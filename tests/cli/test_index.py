import dataclasses
import os
import pathlib

import numpy as np
import pytest

from vla_jax.data import indexing, records
from vla_jax.data.frame_index import FrameIndex
from vla_jax.data.robots import table
from vla_jax.data.robots.tabletop import TABLETOP


def example(steps, action=1.0):
    picture, actions = np.zeros((4, 4, 3), np.uint8), np.array([1, action], np.float32)
    step = {"image": picture, "action": actions, "other": 1.0, "text": "go"}
    return {"steps": [step] * steps}


def write(directory, name, splits):
    """Writes one version; `splits` are lists of the arguments of `example`."""
    f = records.import_tfds().features
    steps = {
        "image": f.Image(shape=(4, 4, 3)),
        "action": f.Tensor(shape=(2,), dtype=np.float32),
        "other": f.Scalar(np.float32),
        "text": f.Text(),
    }
    directory.mkdir(parents=True)
    records.write_dataset(
        directory,
        name=name,
        features=f.FeaturesDict({"steps": f.Dataset(steps)}),
        splits={split: ((example(*n) for n in made), len(made)) for split, made in splits.items()},
        examples_per_shard=1,
        version="1.0.0",
        description="a toy",
    )
    return directory


@pytest.fixture
def toys(tmp_path):
    """A parent of two datasets; the first has two splits."""
    splits = {"one": {"train": [(3,), (2,)], "val": [(1,)]}, "two": {"train": [(4,)]}}
    for name, made in splits.items():
        write(tmp_path / "data" / name / "1.0.0", name, made)
    return tmp_path / "data"


def line(out, *words):
    """The one line of a table that has the words."""
    (found,) = [text for text in out.splitlines() if all(word in text.split() for word in words)]
    return found.replace("│", " ").split()


def test_a_parent_of_several_datasets_is_indexed_and_told_in_a_table(vla_jax, toys):
    code, out, _ = vla_jax("index", toys)
    assert code == 0
    assert line(out, "one", "train")[2:4] == ["2", "5"]  # episodes, frames
    assert line(out, "one", "val")[2:4] == ["1", "1"]
    assert line(out, "two", "train")[2:4] == ["1", "4"]
    assert "index one:train, MB" in out
    assert "GB/s" in out
    assert len(FrameIndex.open(toys / "one" / "1.0.0")) == 5
    code, out, _ = vla_jax("index", toys / "one" / "1.0.0", toys / "two")
    assert code == 0
    assert "GB/s" not in out  # all of it is there


def test_a_number_that_is_not_finite_is_told_with_its_place(vla_jax, tmp_path):
    spoiled = write(tmp_path / "spoiled" / "1.0.0", "spoiled", {"train": [(3,), (2, np.nan)]})
    code, out, _ = vla_jax("index", spoiled)
    assert code == 0
    assert "spoiled shard spoiled-train.tfrecord-00001-of-00002 episode 1 step 0: " in out
    assert "steps/action[1] is not finite, the first of its feature. No statistics of it" in out


def test_splits_and_the_place_are_chosen(vla_jax, toys, tmp_path):
    cache = tmp_path / "cache"
    code, _, _ = vla_jax("index", toys / "one", "--split=val", f"--cache-dir={cache}")
    assert code == 0
    assert not list(toys.rglob(".vla_index"))
    assert len(FrameIndex.open(toys / "one" / "1.0.0", "val", cache_dir=cache)) == 1


def test_arrays_are_chosen(vla_jax, toys):
    vla_jax("index", toys / "two", "--arrays=steps/action")
    index = FrameIndex.open(toys / "two" / "1.0.0")
    assert index.has("steps/action", "array")
    assert not index.has("steps/other", "array")


def test_of_a_known_robot_the_numbers_of_its_adapter_are_indexed(vla_jax, toys, monkeypatch):
    changes = {"name": "two", "arrays": ("steps/action",), "instruction": ("steps/text",)}
    robot = dataclasses.replace(TABLETOP, **changes)
    monkeypatch.setattr(table, "ROBOTS", table.ROBOTS | {"two": robot})
    assert vla_jax("index", toys)[0] == 0
    two = FrameIndex.open(toys / "two" / "1.0.0")
    assert not two.has("steps/other", "array")
    assert two.array("steps/action").shape == (4, 2)
    assert two.cameras == ("steps/image",)
    assert two.text("steps/text", 3) == "go"
    assert FrameIndex.open(toys / "one" / "1.0.0").has("steps/other", "array")


def test_a_changed_shard_is_told_and_indexed_again(vla_jax, toys):
    directory = toys / "two" / "1.0.0"
    indexing.ensure(directory)
    (shard,) = directory.glob("*.tfrecord-*")
    time = shard.stat().st_mtime_ns
    data = shard.read_bytes()[12:-4].replace(b"go", b"no")
    shard.write_bytes(b"".join(records.frame([data])))
    os.utime(shard, ns=(time + 10**9, time + 10**9))
    code, out, _ = vla_jax("index", directory)
    assert code == 0
    assert f"shard {shard.name}: changed since it was indexed" in out
    assert len(FrameIndex.open(directory)) == 4


def test_checksums_are_compared_again_when_asked_for(vla_jax, refused, toys):
    directory = toys / "two" / "1.0.0"
    (shard,) = directory.glob("*.tfrecord-*")
    assert vla_jax("index", directory, "--verify")[0] == 0
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    message = refused("index", directory, "--verify")
    assert f"shard {shard.name}, episode 0 of the shard" in message
    assert "the payload is corrupted" in message


def test_a_damaged_record_is_left_out_when_asked_for(vla_jax, refused, toys):
    shard = sorted((toys / "one" / "1.0.0").glob("one-train*"))[1]
    data = shard.read_bytes()
    shard.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    assert f"shard {shard.name}, episode 0" in refused("index", toys)
    code, out, _ = vla_jax("index", toys, "--on-corrupt=skip")
    assert code == 0
    assert f"left out: dataset {toys}/one/1.0.0, shard {shard.name}, episode 0" in out
    assert line(out, "one", "train")[2:4] == ["1", "3"]
    assert "left out what is damaged" in refused("index", toys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected the arguments DIR..., found none"),
        (("{toys}/absent",), "No such file or directory"),
        (("{toys}", "--split=test"), "no split 'test': expected one of train, val"),
        (("{toys}", "--arrays=steps/actoin"), "no feature 'steps/actoin'"),
        (("{toys}", "--cache=x"), "Unknown command line flag 'cache'"),
    ],
)
def test_wrong_arguments_are_one_line(refused, toys, arguments, message):
    assert message in refused("index", *(text.format(toys=toys) for text in arguments))
    assert not list(pathlib.Path(toys).rglob(".vla_index"))
