"""Every row of the table: its fixed episodes, and what it refuses, without any simulator."""

import json
import subprocess
import sys

import pytest

from vla_jax.core.errors import UserError
from vla_jax.data.robots import table as robots
from vla_jax.envs import table
from vla_jax.envs.environment import FIRST_SEED
from vla_jax.envs.tabletop import world

every = pytest.mark.parametrize("name", list(table.ENVIRONMENTS))


@every
def test_a_row_is_complete(name):
    environment = table.find(name)
    assert environment.name == name
    assert set(environment.robots) <= set(robots.ROBOTS)
    assert environment.views
    assert environment.splits
    assert environment.max_steps > 0
    assert len(environment.protocol.split()) > 10
    for split in environment.splits:
        tasks = environment.tasks_of(split)
        assert tasks
        assert set(tasks) <= set(environment.tasks[split])
    assert set(environment.versions()) == set(environment.packages)


@every
def test_episodes_are_fixed_and_shared_evenly_by_the_tasks(name):
    environment = table.find(name)
    split = environment.splits[0]
    tasks = environment.tasks_of(split)
    episodes = environment.episodes(split)
    assert len(episodes) == max(environment.trials * len(tasks), environment.least)
    assert episodes == environment.episodes(split)
    assert episodes[:7] == environment.episodes(split, 7)
    assert [episode.seed for episode in episodes] == [FIRST_SEED + i for i in range(len(episodes))]
    json.dumps([dict(episode.options) for episode in episodes])  # they are stored in results


def test_every_split_of_the_tabletop_has_two_hundred_episodes():
    environment = table.find("tabletop")
    assert {len(environment.episodes(split)) for split in environment.splits} == {200, 300}


@every
def test_unknown_splits_and_tasks_are_refused(name):
    environment = table.find(name)
    with pytest.raises(UserError, match=f"{name}: no split 'nowhere': expected some of"):
        environment.episodes("nowhere")
    with pytest.raises(UserError, match=f"{name}: no task 'nothing'"):
        environment.episodes(environment.splits[0], tasks=("nothing",))


def test_an_unknown_environment_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="The nearest is 'tabletop'"):
        table.find("tabeltop")


def test_tasks_may_be_chosen():
    tabletop = table.find("tabletop")
    options = [e.options for e in tabletop.episodes("seen", 4, tasks=("two_stage", "pick"))]
    assert [o["task"] for o in options] == ["two_stage", "pick", "two_stage", "pick"]
    assert {o["blocks"] for o in options} == {world.EVALUATION_BLOCKS}
    (other,) = tabletop.episodes("symbol", 1, tasks=("pick", "side"))
    assert other.options["task"] == "side"
    with pytest.raises(UserError, match="no task of symbol among 'pick': expected some of side"):
        tabletop.episodes("symbol", tasks=("pick",))


def test_other_seeds_are_other_episodes():
    tabletop = table.find("tabletop")
    first, other = ({e.seed for e in tabletop.episodes("seen", seed=seed)} for seed in (0, 1))
    assert not first & other


def test_the_tabletop_plays_its_episodes_in_the_size_that_is_asked_for():
    tabletop = table.find("tabletop")
    env = tabletop.make(image_size=32, film=True)
    (episode,) = tabletop.episodes("new_colour", 1)
    observation, info = env.reset(seed=episode.seed, options=dict(episode.options))
    assert observation[tabletop.views["primary"]].shape == (32, 32, 3)
    assert (info["split"], info["task"]) == ("new_colour", "pick")
    assert env.render().shape == (256, 256, 3)
    assert tabletop.make().render() is None


def test_the_table_imports_no_simulator():
    heavy = {"mujoco", "robosuite", "metaworld", "libero", "pybullet", "tensorflow", "jax"}
    program = f"from vla_jax.envs import table; import sys; print({heavy} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)  # noqa: PLW1510
    assert run.stdout.strip() == "set()", run.stderr
