"""The loop around policy and environment, with the scripted expert in place of a model."""

import numpy as np
import pytest

from vla_jax.core.episode import Episode
from vla_jax.core.errors import UserError
from vla_jax.data import images as images_lib
from vla_jax.envs.tabletop.env import TabletopConfig, TabletopEnv
from vla_jax.envs.tabletop.expert import expert_action
from vla_jax.eval import closed_loop

EPISODES = [
    Episode(seed=100 + i, options={"split": "seen", "task": task, "blocks": (2, 3)})
    for i, task in enumerate(("pick", "side", "near", "pick", "side"))
]


class Expert:
    """Knows which environment an image came from, and asks the expert about its scene."""

    history = 1
    views = ("primary",)

    @property
    def observer(self):
        return self

    def __init__(self, *, lazy=False):
        self.envs, self.sizes, self.lazy = [], [], lazy

    def make_env(self):
        config = TabletopConfig(image_size=16, max_steps=20)
        self.envs.append(TabletopEnv(config, render_mode="rgb_array"))
        return self.envs[-1]

    def look(self, views, state):
        (image,) = views["primary"]
        return images_lib.check(image, "primary")

    def act_batch(self, images, instructions):
        self.sizes.append(len(images))
        actions = []
        for env, image, instruction in zip(self.envs, images, instructions, strict=True):
            observed = env._observe()
            assert observed["instruction"] == instruction
            np.testing.assert_array_equal(observed["image"], image)
            action = expert_action(env)
            # Half a bin out of range, as a decoded command may be.
            actions.append([action * 1.001 if not self.lazy else 0 * action])
        return np.array(actions, np.float32), None


def play(slots, **options):
    policy = Expert(lazy=options.pop("lazy", False))
    outcomes = closed_loop.play(policy, policy.make_env, EPISODES, slots=slots, **options)
    return outcomes, policy


@pytest.fixture(scope="module")
def one_by_one():
    return play(1)[0]


def test_the_expert_succeeds(one_by_one):
    assert [outcome.success for outcome in one_by_one] == [True] * 5
    assert all(1 < outcome.steps <= 20 for outcome in one_by_one)


def test_outcomes_come_in_the_order_of_the_episodes(one_by_one):
    assert [outcome.episode for outcome in one_by_one] == EPISODES
    tasks = [outcome.info["task"] for outcome in one_by_one]
    assert tasks == ["pick", "side", "near", "pick", "side"]
    assert [outcome.instruction for outcome in one_by_one] == [
        outcome.info["instruction"] for outcome in one_by_one
    ]


@pytest.mark.parametrize("slots", [2, 3, 5, 50])
def test_slots_change_nothing(one_by_one, slots):
    outcomes, policy = play(slots)
    assert set(policy.sizes) == {min(slots, 5)}
    for found, expected in zip(outcomes, one_by_one, strict=True):
        assert (found.episode, found.steps, found.success, found.instruction) == (
            expected.episode,
            expected.steps,
            expected.success,
            expected.instruction,
        )
        assert found.info == expected.info


def test_the_first_episodes_are_filmed_step_by_step():
    outcomes, _ = play(2, film=2)
    assert [bool(len(outcome.images)) for outcome in outcomes] == [True, True] + [False] * 3
    for outcome in outcomes[:2]:
        assert len(outcome.images) == outcome.steps + 1
        assert {image.shape for image in outcome.images} == {(256, 256, 3)}
        assert not np.array_equal(outcome.images[0], outcome.images[-1])


def test_a_policy_that_never_terminates_fails_at_the_step_limit():
    outcomes, _ = play(3, lazy=True)
    assert [outcome.success for outcome in outcomes] == [False] * 5
    assert [outcome.steps for outcome in outcomes] == [20] * 5


def test_progress_counts_up():
    seen = []
    play(2, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 5) for n in range(1, 6)]


class Scripted:
    """Decides three actions at once, and notes when it was asked about which step of which slot."""

    history, views = 1, ("primary",)

    def __init__(self):
        self.envs, self.asked = [], []

    @property
    def observer(self):
        return self

    make_env = Expert.make_env

    def look(self, views, state):
        return views["primary"][0]

    def act_batch(self, images, instructions):
        self.asked.append([env.steps for env in self.envs])
        return np.stack([[(k + 1) * 0.001 * ONE for k in range(3)] for _ in images]), None


ONE = np.array([0, 1, 0, 0, 0, 0, 0, 0], np.float32)  # along x


class Counting(TabletopEnv):
    """Counts its steps and keeps what it was told to do."""

    def reset(self, **options):
        self.steps, self.told = 0, []
        return super().reset(**options)

    def step(self, action):
        self.steps += 1
        self.told.append(round(float(action[1]) * 1000))
        return super().step(action)


@pytest.mark.parametrize("execute", [1, 2, 3])
def test_so_many_actions_of_a_decision_are_executed_before_the_next(execute):
    policy = Scripted()

    def make_env():
        limit = 4 + 3 * len(policy.envs)  # the second episode is longer
        policy.envs.append(Counting(TabletopConfig(image_size=16, max_steps=limit)))
        return policy.envs[-1]

    outcomes = closed_loop.play(policy, make_env, EPISODES[:2], slots=2, execute=execute)
    assert [outcome.steps for outcome in outcomes] == [4, 7]
    for env, steps in zip(policy.envs, (4, 7), strict=True):
        assert env.told == [k % execute + 1 for k in range(steps)]
    assert len(policy.asked) == -(-7 // execute)
    assert policy.asked[1] == [execute, execute]


def test_more_actions_than_a_decision_has_are_refused():
    with pytest.raises(UserError, match=r"actions to execute.*expected at most 1, .*found 2"):
        play(2, execute=2)


def test_no_episodes_are_no_outcomes():
    policy = Expert()
    assert closed_loop.play(policy, policy.make_env, [], slots=4) == []
