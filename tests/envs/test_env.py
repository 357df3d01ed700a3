"""The gymnasium environment: its interface, its determinism, its physics and its rewards."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vla_jax import envs
from vla_jax.core.errors import UserError
from vla_jax.data.robots.tabletop import MAX_STEP, TABLETOP
from vla_jax.envs.tabletop import world
from vla_jax.envs.tabletop.env import ENV_ID, TabletopConfig, TabletopEnv


def command(*, terminate=0.0, dx=0.0, dy=0.0, dz=0.0, dyaw=0.0, grip=0.0):
    return np.array([terminate, dx, dy, dz, 0, 0, dyaw, grip], np.float32)


def at_block(env, index):
    """Puts the open gripper over a block."""
    env.scene.pose[:2] = env.scene.positions[index]


def test_gymnasium_checker_passes_without_warnings():
    envs.register()
    envs.register()
    check_env(gymnasium.make(ENV_ID, render_mode="rgb_array").unwrapped)


def test_an_episode_is_a_function_of_seed_and_options():
    options = {"split": "new_both", "task": "near", "blocks": (2, 3)}
    fresh, used = TabletopEnv(), TabletopEnv()
    used.reset(seed=5)
    used.reset()
    for env in (fresh, used):
        env.reset(seed=7, options=options)
    actions = [fresh.action_space.sample() for _ in range(5)]
    for action in actions:
        one, other = fresh.step(action), used.step(action)
        np.testing.assert_array_equal(one[0]["image"], other[0]["image"])
        np.testing.assert_array_equal(one[0]["state"], other[0]["state"])
        assert one[1:] == other[1:]
    assert fresh.scene.split == "new_both"
    assert fresh.scene.task == "near"


def test_resets_without_a_seed_go_on_with_new_episodes():
    env = TabletopEnv()
    first = env.reset(seed=0)[1]["blocks"]
    second = env.reset()[1]["blocks"]
    env.reset(seed=0)
    assert first != second
    assert env.reset()[1]["blocks"] == second


def test_motion_is_in_metres_and_radians_and_clipped():
    env = TabletopEnv()
    env.reset(seed=0)
    env.scene.pose[:] = (0.2, 0.2, 0.1, 0, 0, 0)
    state = env.step(command(dx=0.03, dy=-0.02, dz=0.01, dyaw=0.1, grip=1))[0]["state"]
    np.testing.assert_allclose(state, [0.23, 0.18, 0.11, 0, 0, 0.1, 1], atol=1e-6)
    state = env.step(command(dx=9.0, grip=1))[0]["state"]
    assert state[0] == pytest.approx(0.23 + MAX_STEP)
    for _ in range(20):
        observation = env.step(command(dx=0.05, dz=-0.05))[0]
    assert observation["state"][0] == pytest.approx(world.GRIPPER_LIMITS[1])
    assert observation["state"][2] == pytest.approx(world.HEIGHT_LIMITS[0])
    assert env.observation_space.contains(observation)


def test_fingers_grasp_only_when_they_close_over_a_block_and_carry_until_they_open():
    env = TabletopEnv()
    env.reset(seed=1, options={"task": "side", "blocks": (1, 1)})
    env.scene.positions[0] = (0.2, 0.2)
    env.scene.pose[:2] = (0.1, 0.2)
    env.step(command(grip=1))  # too far
    assert env.scene.held == -1
    env.scene.pose[:2] = (0.2, 0.2)
    env.step(command(grip=1))  # already closed: no grasp
    assert env.scene.held == -1
    env.step(command())
    env.step(command(dx=0.03, grip=1))  # within the grasp radius
    assert env.scene.held == 0
    env.step(command(dx=0.05, dy=0.05, grip=1))
    np.testing.assert_allclose(env.scene.positions[0], (0.28, 0.25), atol=1e-6)
    env.step(command())
    env.step(command(dx=0.05))
    np.testing.assert_allclose(env.scene.positions[0], (0.28, 0.25), atol=1e-6)


def test_success_needs_the_goal_and_the_termination():
    env = TabletopEnv()
    env.reset(seed=2, options={"task": "pick"})
    at_block(env, 0)
    _, reward, terminated, _, info = env.step(command(grip=1))
    assert (reward, terminated, info["goal"], info["success"]) == (0.0, False, True, False)
    _, reward, terminated, truncated, info = env.step(command(terminate=1, grip=1))
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


def test_terminating_without_the_goal_fails():
    env = TabletopEnv()
    env.reset(seed=2)
    _, reward, terminated, _, info = env.step(command(terminate=1))
    assert (reward, terminated, info["success"]) == (0.0, True, False)


def test_first_grasp_of_another_block_is_reported_for_the_whole_episode():
    env = TabletopEnv()
    info = env.reset(seed=3, options={"task": "pick", "blocks": (2, 2)})[1]
    assert (info["grasped"], info["wrong_block"]) == (-1, False)
    at_block(env, 1)
    info = env.step(command(grip=1))[4]
    assert (info["grasped"], info["wrong_block"], info["goal"]) == (1, True, False)
    env.step(command())
    at_block(env, 0)
    info = env.step(command(grip=1))[4]
    assert (info["grasped"], info["wrong_block"], info["goal"]) == (1, True, True)


@pytest.mark.parametrize(("task", "limit"), [("pick", 30), ("two_stage", 60)])
def test_the_step_limit_truncates(task, limit):
    env = TabletopEnv()
    env.reset(seed=4, options={"task": task, "blocks": (2, 2)})
    truncated = [env.step(command())[3] for _ in range(limit)]
    assert truncated == [False] * (limit - 1) + [True]


@pytest.mark.parametrize(
    ("direction", "inside", "outside"),
    [
        ("left", (0.09, 0.2), (0.10, 0.2)),
        ("right", (0.31, 0.2), (0.30, 0.2)),
        ("top", (0.2, 0.09), (0.2, 0.10)),
        ("bottom", (0.2, 0.31), (0.2, 0.30)),
    ],
)
def test_sides_are_the_edge_zones_of_the_picture(direction, inside, outside):
    env = TabletopEnv()
    env.reset(seed=5, options={"task": "side", "blocks": (1, 1)})
    env.scene.direction = direction
    env.scene.positions[0] = inside
    assert env.scene.is_goal()
    env.scene.positions[0] = outside
    assert not env.scene.is_goal()


def test_configuration_and_options_are_checked():
    with pytest.raises(UserError, match="image_size: expected 1 or more, found 0"):
        TabletopConfig(image_size=0)
    with pytest.raises(UserError, match="reset option 'tasks'"):
        TabletopEnv().reset(seed=0, options={"tasks": ("pick",)})
    with pytest.raises(gymnasium.error.ResetNeeded):
        TabletopEnv().step(command())


def test_action_space_is_the_action_spec():
    space = TabletopEnv().action_space
    assert isinstance(space, gymnasium.spaces.Box)
    np.testing.assert_allclose(space.low, TABLETOP.spec.low)
    np.testing.assert_allclose(space.high, TABLETOP.spec.high)
    # The data side states the same meaning for the datasets that this environment writes.


def test_people_get_a_larger_picture():
    env = TabletopEnv(render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture is not None
    assert picture.shape == (256, 256, 3)
    assert TabletopEnv().render() is None
