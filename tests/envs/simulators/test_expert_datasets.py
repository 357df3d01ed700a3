"""Demonstrations of simulators' experts, as RLDS that TFDS and training read."""

import dataclasses
import hashlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vla_jax.core.errors import UserError
from vla_jax.data import indexing
from vla_jax.data.episodes import Episodes
from vla_jax.data.robots.table import find
from vla_jax.envs import demonstrations, table
from vla_jax.envs.demonstrations import DemonstrationOptions, demonstrate

METAWORLD = DemonstrationOptions(
    environment="metaworld",
    tasks=("reach-v3", "push-v3"),
    split="mt50",
    episodes=6,
    image_size=16,
    noise=0.2,
)


def digest(directory):
    return hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(directory.iterdir()))
    ).hexdigest()


def source(directory, name, tmp_path):
    robot = find(name)
    wanted = indexing.Wanted(arrays=robot.arrays, texts=robot.instruction)
    index = indexing.ensure(directory, wanted=wanted, cache_dir=tmp_path)
    return index, Episodes(index, robot, views=("primary",))


def test_meta_world_is_written_as_training_reads_it(fakes, tmp_path):
    done = []
    written = demonstrate(
        METAWORLD,
        tmp_path / "metaworld/1.0.0",
        workers_count=1,
        on_progress=lambda *counts: done.append(counts),
    )
    assert (written.episodes, written.failed) == (6, {})
    assert done == [(n, 0) for n in range(1, 7)]
    index, episodes = source(written.directory, "metaworld", tmp_path / "index")
    assert len(index.starts) - 1 == 6
    assert len(episodes) == written.steps
    example = episodes.example(0)
    # The command is the expert's, with no noise in it, towards the first training goal.
    assert np.abs(example.action[0, :3]).max() == pytest.approx(0.01)
    assert example.action[0, 3] == 0.5
    np.testing.assert_allclose(example.state, [0, 0.6, 0.2, 1], atol=1e-6)
    builder = tfds.builder_from_directory(written.directory)
    first = next(iter(tfds.as_numpy(builder.as_dataset(split="train"))))
    steps = list(first["steps"])
    texts = {step["language_instruction"] for step in steps}
    assert texts == {b"reach the goal"}
    assert [bool(step["is_terminal"]) for step in steps] == [False] * (len(steps) - 1) + [True]
    assert [float(step["reward"]) for step in steps] == [0.0] * (len(steps) - 1) + [1.0]
    assert steps[0]["observation"]["image"].shape == (16, 16, 3)


def test_language_table_is_written_as_the_published_set(fakes, tmp_path):
    options = DemonstrationOptions(
        environment="language_table", tasks=("separate", "blocktoblock"), split="all", episodes=4
    )
    written = demonstrate(options, tmp_path / "out", workers_count=1)
    _, episodes = source(written.directory, "language_table_sim", tmp_path / "index")
    example = episodes.example(0)
    assert example.prefix.startswith("separate the ")
    assert example.action.shape[-1] == 2
    assert np.abs(example.action).max() <= 0.04
    assert episodes.state_size == 2


def test_the_number_of_processes_does_not_matter(fakes, tmp_path):
    for count in (1, 2):
        demonstrate(METAWORLD, tmp_path / str(count), workers_count=count)
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_noise_changes_the_course_and_the_seed_the_noise(fakes, tmp_path):
    changes = {"a": {}, "b": {"seed": 1}, "c": {"noise": 0.0}}
    for name, change in changes.items():
        demonstrate(dataclasses.replace(METAWORLD, **change), tmp_path / name, workers_count=1)
    assert len({digest(tmp_path / name) for name in changes}) == 3


def test_a_failed_episode_is_left_out_and_counted(fakes, tmp_path):
    options = DemonstrationOptions(
        environment="metaworld",
        tasks=("reach-v3", "push-v3", "sweep-v3"),
        split="mt50",
        episodes=6,
        image_size=16,
    )
    written = demonstrate(options, tmp_path / "out", workers_count=1)
    assert (written.episodes, written.failed) == (4, {"sweep-v3": 2})


def test_an_expert_that_fails_too_often_leaves_nothing(fakes, tmp_path):
    options = DemonstrationOptions(
        environment="metaworld",
        tasks=("reach-v3", "sweep-v3", "sweep-v3"),
        split="mt50",
        episodes=3,
    )
    with pytest.raises(UserError, match=r"expert of metaworld failed too often.*found 2"):
        demonstrate(options, tmp_path / "deep/out", workers_count=1)
    assert list(tmp_path.iterdir()) == []


def test_more_episodes_than_goals_want_noise(fakes, tmp_path):
    options = DemonstrationOptions(
        environment="metaworld", tasks=("reach-v3",), split="mt50", episodes=51
    )
    with pytest.raises(UserError, match=r"expected at most 50 episodes, found 51\. Give --noise"):
        demonstrate(options, tmp_path / "out")


@pytest.mark.parametrize("name", ["tabletop", "libero"])
def test_an_environment_without_an_expert_says_where_its_data_come_from(fakes, tmp_path, name):
    environment = table.find(name)
    split, tasks = demonstrations.resolve(environment, (), None)
    options = DemonstrationOptions(environment=name, tasks=tasks, split=split, episodes=1)
    with pytest.raises(UserError, match=r"no expert to record.*vla-jax ingest"):
        demonstrate(options, tmp_path / "out", workers_count=1)


def test_the_split_is_the_first_that_has_the_tasks():
    environment = table.find("metaworld")
    assert demonstrations.resolve(environment, ("reach-v3",), None)[0] == "mt10"
    assert demonstrations.resolve(environment, ("reach-v3", "sweep-v3"), None)[0] == "mt50"
    assert len(demonstrations.resolve(environment, (), None)[1]) == 10
    with pytest.raises(UserError, match="nearest is 'reach-v3'"):
        demonstrations.resolve(environment, ("reach-v1",), None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episodes": 0}, "episodes: expected 1 or more"),
        ({"noise": 1.5}, r"noise: expected 0\.\.1"),
        ({"seed": -1}, "seed: expected"),
        ({"seed": 10**6}, "seed: expected"),  # evaluation's seeds
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(METAWORLD, **change)
