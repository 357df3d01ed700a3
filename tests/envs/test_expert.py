"""The scripted expert solves every task, with and without noise, and recovers from mistakes."""

import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.data.robots.tabletop import MAX_STEP, TABLETOP
from vla_jax.envs.tabletop import expert, world
from vla_jax.envs.tabletop.env import TabletopEnv
from vla_jax.envs.tabletop.expert import LEVELS, NoiseConfig


def roll_out(env, rng=None):
    """Lets the expert act to the end and returns the last info and all its actions."""
    actions = []
    while True:
        action = expert.expert_action(env)
        actions.append(action)
        executed = expert.perturb(action, rng, NoiseConfig()) if rng else action
        _, _, terminated, truncated, info = env.step(executed)
        if terminated or truncated:
            return info, np.array(actions)


@pytest.mark.parametrize("is_noisy", [False, True])
@pytest.mark.parametrize("task", world.TASKS)
def test_expert_solves_every_task(task, is_noisy):
    env = TabletopEnv()
    for seed in range(30):
        env.reset(seed=seed, options={"task": task, "blocks": (1, 3)})
        info, _ = roll_out(env, np.random.default_rng(seed) if is_noisy else None)
        assert info["success"], seed


@pytest.mark.parametrize("split", world.SPLITS)
def test_expert_solves_every_split_without_touching_another_block(split):
    env = TabletopEnv()
    for seed in range(10):
        env.reset(seed=seed, options={"split": split, "blocks": (3, 3)})
        info, _ = roll_out(env)
        assert info["success"]
        assert not info["wrong_block"]


def test_expert_recovers_from_a_wrong_grasp():
    env = TabletopEnv()
    env.reset(seed=0, options={"task": "near", "blocks": (3, 3)})
    env.scene.pose[:2] = env.scene.positions[2]
    env.step(np.array([0, 0, 0, 0, 0, 0, 0, 1], np.float32))
    assert env.scene.held == 2
    info, _ = roll_out(env)
    assert info["success"]
    assert info["wrong_block"]


def test_actions_are_within_the_spec_and_of_nine_speeds():
    env = TabletopEnv()
    actions = []
    for seed in range(20):
        env.reset(seed=seed)
        actions.extend(roll_out(env)[1])
    actions = np.array(actions)
    assert actions.dtype == np.float32
    assert (actions >= np.float32(TABLETOP.spec.low)).all()
    assert (actions <= np.float32(TABLETOP.spec.high)).all()
    speeds = actions[:, 1:3] / MAX_STEP * LEVELS
    np.testing.assert_allclose(speeds, np.round(speeds), atol=1e-5)
    assert len(np.unique(np.round(speeds))) == 2 * LEVELS + 1
    np.testing.assert_array_equal(actions[:, 3:7], 0)


def test_noise_has_the_stated_size_and_spares_the_termination():
    rng, noise = np.random.default_rng(0), NoiseConfig(random_move=0.0)
    action = np.array([0, 0.01, 0, 0, 0, 0, 0, 1], np.float32)
    executed = np.array([expert.perturb(action, rng, noise) for _ in range(4000)])
    strayed = executed[:, 1:3] - action[1:3]
    assert strayed.std() == pytest.approx(0.3 * MAX_STEP, rel=0.05)
    assert (executed[:, 7] == 0).mean() == pytest.approx(0.05, abs=0.015)
    np.testing.assert_array_equal(executed[:, [0, 3, 4, 5, 6]], 0)
    action[0] = 1
    last = np.array([expert.perturb(action, rng, noise) for _ in range(500)])
    np.testing.assert_array_equal(last[:, [0, 7]], 1)


def test_without_noise_the_action_is_executed_as_it_is():
    quiet = NoiseConfig(motion=0.0, wrong_grip=0.0, random_move=0.0)
    action = np.array([0, 0.0125, -0.05, 0, 0, 0, 0, 1], np.float32)
    executed = expert.perturb(action, np.random.default_rng(0), quiet)
    np.testing.assert_array_equal(executed, action)


def test_noise_out_of_range_is_refused():
    with pytest.raises(UserError, match=r"NoiseConfig\.wrong_grip: expected 0\.\.1, found 1\.5"):
        NoiseConfig(wrong_grip=1.5)
