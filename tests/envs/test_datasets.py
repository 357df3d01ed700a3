"""Datasets on disk: made once, found again, never half there."""

import dataclasses
import errno
import json
import shutil
import subprocess
import sys

import pytest

from vla_jax.core.errors import UserError
from vla_jax.data import records
from vla_jax.envs.tabletop import datasets, demonstrations
from vla_jax.envs.tabletop.datasets import DatasetsConfig
from vla_jax.envs.tabletop.demonstrations import DemonstrationsConfig
from vla_jax.envs.tabletop.questions import QuestionsConfig

TINY = DatasetsConfig(
    image_size=16,
    demonstrations=DemonstrationsConfig(episodes=3),
    questions=QuestionsConfig(train=5, validation=2),
)


def content(directory):
    """Every file's bytes by name."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def made_by(config, data_dir, **options):
    """The descriptions of what `ensure` generated rather than found."""
    described = []
    datasets.ensure(config, data_dir, lambda what, *_: described.append(what), **options)
    return set(described)


@pytest.fixture
def tiny(tmp_path):
    return datasets.ensure(TINY, tmp_path, workers=1)


def test_a_second_call_finds_what_the_first_made(tiny, tmp_path):
    before = [path.stat().st_mtime_ns for path in tiny]
    assert made_by(TINY, tmp_path) == set()
    assert datasets.ensure(TINY, tmp_path) == tiny
    assert [path.stat().st_mtime_ns for path in tiny] == before


@pytest.mark.parametrize(
    ("change", "made"),
    [
        ({"questions": QuestionsConfig(train=6, validation=2)}, {"web questions"}),
        ({"demonstrations": DemonstrationsConfig(episodes=2)}, {"robot demonstrations"}),
        ({"seed": 1}, {"web questions", "robot demonstrations"}),
        ({"image_size": 20}, {"web questions", "robot demonstrations"}),
    ],
)
def test_a_change_regenerates_only_the_dataset_it_concerns(tiny, tmp_path, change, made):
    changed = dataclasses.replace(TINY, **change)
    assert made_by(changed, tmp_path, workers=1) == made
    moved = datasets.directories(changed, tmp_path)
    assert (moved.robot != tiny.robot) == ("robot demonstrations" in made)
    assert (moved.web != tiny.web) == ("web questions" in made)


def test_content_does_not_depend_on_the_number_of_workers(small_config, small_datasets, tmp_path):
    again = datasets.ensure(small_config, tmp_path, workers=3)
    for one, other in zip(again, small_datasets, strict=True):
        assert content(one) == content(other)


def test_the_layout_is_the_one_of_tfds(tiny, tmp_path):
    assert tiny.robot.relative_to(tmp_path).parts[::2] == ("tabletop", "1.0.0")
    assert tiny.web.relative_to(tmp_path).parts[::2] == ("tabletop_questions", "1.0.0")
    assert {path.name for path in tiny.web.iterdir()} == {
        "dataset_info.json",
        "features.json",
        "generation.json",
        "tabletop_questions-train.tfrecord-00000-of-00001",
        "tabletop_questions-validation.tfrecord-00000-of-00001",
    }
    tfds = records.import_tfds()
    splits = tfds.builder_from_directory(tiny.web).info.splits
    assert {name: split.num_examples for name, split in splits.items()} == {
        "train": 5,
        "validation": 2,
    }


def test_shards_hold_what_the_metadata_says(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_EPISODES_PER_SHARD", 2)
    path = datasets.ensure(TINY, tmp_path, workers=1).robot
    tfds = records.import_tfds()
    split = tfds.builder_from_directory(path).info.splits["train"]
    assert split.shard_lengths == [2, 1]
    ids = [
        int(episode["episode_metadata"]["episode_id"])
        for episode in tfds.builder_from_directory(path).as_dataset(split="train")
    ]
    assert sorted(ids) == [0, 1, 2]


def test_progress_counts_to_the_total(tmp_path):
    seen = []
    datasets.ensure(TINY, tmp_path, lambda *call: seen.append(call), workers=1)
    assert seen[0] == ("robot demonstrations", 0, 3)
    assert ("robot demonstrations", 3, 3) in seen
    assert seen[-1] == ("web questions", 7, 7)


@pytest.mark.parametrize("missing", ["dataset_info.json", "generation.json"])
def test_a_half_written_folder_is_refused_with_its_name(tiny, tmp_path, missing):
    (tiny.robot / missing).unlink()
    with pytest.raises(UserError, match=r"half written.*Delete the folder") as refused:
        datasets.ensure(TINY, tmp_path)
    assert str(tiny.robot) in str(refused.value)
    shutil.rmtree(tiny.robot)
    assert made_by(TINY, tmp_path, workers=1) == {"robot demonstrations"}


def test_a_truncated_shard_is_refused(tiny, tmp_path):
    shard = next(tiny.web.glob("*train*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"damaged, file {shard.name}: expected \d+ bytes"):
        datasets.ensure(TINY, tmp_path)


def test_another_format_is_refused(tiny, tmp_path):
    file = tiny.robot / "generation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": "0.9.0"}))
    with pytest.raises(UserError, match=r"expected format 1\.0\.0, found format 0\.9\.0"):
        datasets.ensure(TINY, tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_leaves_nothing_behind(tmp_path, workers):
    def interrupt(what, done, total):
        if done:
            raise KeyboardInterrupt

    config = dataclasses.replace(TINY, demonstrations=DemonstrationsConfig(episodes=120))
    with pytest.raises(KeyboardInterrupt):
        datasets.ensure(config, tmp_path, interrupt, workers=workers)
    assert [path for path in tmp_path.rglob("*") if path.is_file() or "partial" in path.name] == []


def test_a_full_disk_names_the_folder_and_the_bytes_needed(tmp_path, monkeypatch):
    def full(batch):
        yield b""
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records, "frame", full)
    with pytest.raises(UserError, match=r"about \d+ bytes needed, \d+ bytes free") as refused:
        datasets.ensure(TINY, tmp_path, workers=1)
    assert str(datasets.directories(TINY, tmp_path).robot) in str(refused.value)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_data_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match="cannot write dataset"):
        datasets.ensure(TINY, tmp_path / "data", workers=1)


def test_a_run_beside_this_one_that_finishes_first_wins(tmp_path, monkeypatch):
    whole = datasets.ensure(TINY, tmp_path / "other", workers=1)
    paths = datasets.directories(TINY, tmp_path / "here")
    generate = demonstrations.episodes

    def finish_elsewhere(*arguments):
        shutil.copytree(whole.robot, paths.robot)
        return generate(*arguments)

    monkeypatch.setattr(demonstrations, "episodes", finish_elsewhere)
    datasets.ensure(TINY, tmp_path / "here", workers=1)
    assert content(paths.robot) == content(whole.robot)
    assert [path.name for path in paths.robot.parent.iterdir()] == ["1.0.0"]


def test_generating_does_not_import_tensorflow(tmp_path):
    program = (
        "import sys\n"
        "from vla_jax.envs.tabletop import datasets as d\n"
        "c = d.DatasetsConfig(image_size=16, demonstrations=d.DemonstrationsConfig(episodes=1),"
        " questions=d.QuestionsConfig(train=1, validation=1))\n"
        f"d.ensure(c, {str(tmp_path)!r}, workers=1)\n"
        "sys.exit(any(n in sys.modules for n in ('tensorflow', 'jax', 'gymnasium')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_configuration_is_checked():
    with pytest.raises(UserError, match=r"image_size: expected 16..4096, found 8"):
        DatasetsConfig(image_size=8)
    with pytest.raises(UserError, match=r"seed: expected .*, found -1"):
        DatasetsConfig(seed=-1)
    with pytest.raises(UserError, match=r"episodes: expected .*, found 0"):
        DemonstrationsConfig(episodes=0)
