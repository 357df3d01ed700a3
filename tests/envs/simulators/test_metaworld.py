"""The adapter of Meta-World, on a small simulator with its interface."""

import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.envs import table
from vla_jax.envs.metaworld import tasks
from vla_jax.envs.metaworld.env import MetaworldConfig, MetaworldEnv


@pytest.fixture
def env(fakes):
    env = MetaworldEnv(MetaworldConfig(image_size=16), render_mode="rgb_array")
    yield env
    env.close()


def play(env, act, **options):
    observation, info = env.reset(seed=0, options=options)
    seen, ended = [observation], False
    while not ended:
        observation, reward, terminated, truncated, info = env.step(act())
        seen.append(observation)
        ended = terminated or truncated
    return seen, reward, terminated, info


def test_the_expert_succeeds_through_robot_units(env):
    seen, reward, terminated, info = play(env, env.expert_action, task="reach-v3", goal=4)
    assert (reward, terminated, info["success"], info["goal"]) == (1.0, True, True, 4)
    assert len(seen) < 30
    assert {each["instruction"] for each in seen} == {"reach the goal"}


def test_standing_still_is_cut_off_without_success(env):
    still = np.array([0, 0, 0, 0.5], np.float32)
    seen, reward, terminated, info = play(env, lambda: still, task="reach-v3", goal=4)
    assert (reward, terminated, info["success"]) == (0.0, False, False)
    np.testing.assert_array_equal(seen[0]["state"], seen[-1]["state"])


def test_actions_are_metres_and_an_open_gripper_is_one(env):
    before, _ = env.reset(seed=0, options={"task": "reach-v3"})
    after, *_ = env.step(np.array([0.004, -0.002, 0.001, 0.0], np.float32))
    np.testing.assert_allclose(
        after["state"] - before["state"], [0.004, -0.002, 0.001, -0.5], atol=1e-6
    )
    opened, *_ = env.step(np.array([0, 0, 0, 1], np.float32))
    assert opened["state"][3] == 1
    beyond, *_ = env.step(np.array([9, 0, 0, 1], np.float32))  # the simulator asserts its bounds
    assert beyond["state"][0] - opened["state"][0] == pytest.approx(0.01)


def test_an_expert_that_commands_too_much_is_cut_to_the_bounds(env):
    env.reset(seed=0, options={"task": "sweep-v3"})
    np.testing.assert_array_equal(env.expert_action(), np.float32([0, 0, 0, 0]))
    env.reset(seed=0, options={"task": "reach-v3", "goal": 1})
    assert env.action_space.contains(env.expert_action())  # the warning is not ours to print


def test_the_picture_is_turned_and_the_first_is_from_the_right_camera(env):
    observation, _ = env.reset(seed=0, options={"task": "reach-v3"})
    image = observation["image"]
    np.testing.assert_array_equal(image[-1, -1], [50, 170, 90])
    np.testing.assert_array_equal(image[-1, -2], [255, 255, 255])
    np.testing.assert_array_equal(env.render(), image)
    assert env.observation_space.contains(observation)


def test_goals_differ_by_number_and_set_and_are_drawn_once(env):
    import metaworld

    metaworld.drawn.clear()
    actions = {}
    for goals in ("train", "test"):
        for goal in (0, 1, 0):
            env.reset(seed=0, options={"task": "reach-v3", "goals": goals, "goal": goal})
            actions.setdefault((goals, goal), set()).add(env.expert_action().tobytes())
    assert all(len(found) == 1 for found in actions.values())
    assert len(set.union(*actions.values())) == 4
    assert metaworld.drawn == [("reach-v3", 42), ("reach-v3", 43)]


def test_a_finished_simulator_is_closed(env):
    env.reset(seed=0, options={"task": "reach-v3"})
    before = env.simulation._env
    env.reset(seed=0, options={"task": "push-v3"})
    assert before.closed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "reach-v2"}, r"metaworld task 'reach-v2'.*nearest is 'reach-v3'"),
        ({"goals": "all"}, r"metaworld goals 'all': expected train, test"),
        ({"goal": 50}, r"metaworld goal 50: expected 0\.\.49"),
        ({"tasks": "reach-v3"}, r"reset option 'tasks': expected task, goals or goal"),
    ],
)
def test_an_unknown_option_is_refused(env, options, message):
    with pytest.raises(UserError, match=message):
        env.reset(seed=0, options={"task": "reach-v3"} | options)


def test_without_the_package_the_line_that_installs_it_is_told(fakes, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "metaworld", None)
    with pytest.raises(UserError, match=r"needs the package metaworld.*vla_jax\[metaworld\]"):
        MetaworldEnv()


def test_the_protocol_plays_every_goal_of_every_task_once():
    environment = table.find("metaworld")
    for split, names in (("mt10", tasks.MT10), ("mt50", tasks.MT50), ("new_goals", tasks.MT50)):
        episodes = environment.episodes(split)
        played = {(e.options["task"], e.options["goal"]) for e in episodes}
        assert played == {(name, goal) for name in names for goal in range(50)}
        assert len(episodes) == len(played)
        goals = {e.options["goals"] for e in episodes}
        assert goals == {"test" if split == "new_goals" else "train"}
    assert len(tasks.MT50) == len(set(tasks.INSTRUCTIONS.values())) == 50
    assert set(tasks.MT10) < set(tasks.MT50)
