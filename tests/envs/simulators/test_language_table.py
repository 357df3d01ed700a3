"""The adapter of Language-Table, on a small simulator with its interface."""

import sys

import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.envs import table
from vla_jax.envs.language_table import source
from vla_jax.envs.language_table.env import LanguageTableEnv


@pytest.fixture
def env(fakes):
    env = LanguageTableEnv(render_mode="rgb_array")
    yield env
    env.close()


def test_the_oracle_succeeds_in_every_family(env):
    for family in source.FAMILIES:
        observation, info = env.reset(seed=3, options={"task": family})
        assert env.observation_space.contains(observation)
        ended, steps = False, 0
        while not ended:
            action = env.expert_action()
            assert env.action_space.contains(action)
            observation, reward, terminated, truncated, info = env.step(action)
            ended, steps = terminated or truncated, steps + 1
        assert (reward, terminated, truncated) == (1.0, True, False)
        assert info == {"success": True, "task": family}
        assert steps < 60


def test_it_is_cut_off_after_200_steps(env):
    env.reset(seed=3)
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(200)]
    assert ends[-2:] == [(False, False), (False, True)]


def test_an_episode_is_a_function_of_its_seed_whatever_else_is_drawn(env):
    def episode():
        first, _ = env.reset(seed=5, options={"task": "separate"})
        np.random.rand()  # the source draws from this generator, and so may anyone
        action = env.expert_action()
        return first["instruction"], first["state"].tobytes(), action.tobytes()

    np.random.seed(1)
    once = episode()
    env.reset(seed=6)
    outside = np.random.get_state()[2]
    assert episode() == once
    assert np.random.get_state()[2] != outside  # by the draw of the test alone
    np.random.seed(1)
    expected = [np.random.rand() for _ in range(3)][2]
    np.random.seed(1)
    episode(), episode()
    assert np.random.rand() == expected


def test_scenes_without_a_plan_are_drawn_again(env):
    for seed in range(4):
        env.reset(seed=seed)
        assert env.simulation._oracle.planned
        assert env.simulation._table.draws % 3 != 0


def test_the_oracle_costs_no_picture(env):
    from language_table.environments import language_table

    env.reset(seed=0)
    language_table.pictures.clear()
    env.expert_action()
    assert language_table.pictures == []
    env.step(np.zeros(2))
    assert language_table.pictures == [(180, 320)]


def test_one_simulator_lives_at_a_time(env):
    from language_table.environments import language_table

    for seed in range(3):
        env.reset(seed=seed)
        assert len(language_table.alive) == 1
    env.close()
    assert language_table.alive == []


def test_neither_tensorflow_nor_tf_agents_stay_behind(fakes, monkeypatch):
    loaded = object()
    monkeypatch.setitem(sys.modules, "tensorflow", loaded)
    source.load()
    assert sys.modules["tensorflow"] is loaded
    assert not any(name.startswith("tf_agents") for name in sys.modules)


def test_the_dataset_has_the_features_of_the_published_one(env):
    observation, _ = env.reset(seed=0)
    recorded = env.recorded()
    assert {name: (v.shape, v.dtype.name) for name, v in recorded.items()} == {
        "observation/effector_translation": ((2,), "float32"),
        "observation/effector_target_translation": ((2,), "float32"),
        "observation/instruction": ((512,), "int32"),
    }
    codes = recorded["observation/instruction"]
    assert bytes(codes[codes > 0].astype(np.uint8)).decode() == observation["instruction"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "seperate"}, r"task 'seperate'.*nearest is 'separate'"),
        ({"split": "all"}, r"reset option 'split': expected task"),
    ],
)
def test_an_unknown_option_of_language_table_is_refused(env, options, message):
    with pytest.raises(UserError, match=message):
        env.reset(seed=0, options=options)


@pytest.mark.parametrize("package", ["pybullet", "gym", "language_table"])
def test_what_is_missing_is_named_with_the_way_to_install_it(fakes, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"needs the package {package}.*Clone .*PYTHONPATH.*vla_jax\[language-table\]"
    with pytest.raises(UserError, match=message):
        LanguageTableEnv()


def test_the_protocol_is_that_of_rt2():
    environment = table.find("language_table")
    episodes = environment.episodes("all")
    assert len(episodes) == 5 * 50
    assert environment.max_steps == 200
    assert len({episode.seed for episode in episodes}) == 250
    assert {episode.options["task"] for episode in episodes} == set(source.FAMILIES)
