"""Environments in processes of their own answer as those in this one do."""

import functools
import os

import gymnasium
import numpy as np
import pytest

from vla_jax.core.episode import Episode
from vla_jax.core.errors import UserError
from vla_jax.envs.tabletop.env import TabletopConfig, TabletopEnv
from vla_jax.eval import closed_loop
from vla_jax.eval.apart import Apart

MAKE = functools.partial(TabletopEnv, TabletopConfig(image_size=16), render_mode="rgb_array")
EPISODES = [
    Episode(seed=n, options={"split": "seen", "task": "pick", "blocks": (2, 3)}) for n in range(5)
]


class Wanderer:
    """Acts by what it sees, without a model."""

    views, history = ("primary",), 1

    @property
    def observer(self):
        return self

    def look(self, images, state):
        return images["primary"][-1]

    def act_batch(self, images, instructions):
        seeds = [int(image.astype(int).sum()) for image in images]
        actions = [np.random.default_rng(seed).uniform(-0.05, 0.05, (1, 8)) for seed in seeds]
        return np.array(actions, np.float32), None


def test_episodes_go_the_same_way_here_and_apart():
    here, apart = (
        closed_loop.play(Wanderer(), MAKE, EPISODES, slots=2, film=1, apart=is_apart)
        for is_apart in (False, True)
    )
    for one, other in zip(here, apart, strict=True):
        assert (one.start, one.steps, one.info) == (other.start, other.steps, other.info)
    np.testing.assert_array_equal(here[0].images, apart[0].images)
    assert {outcome.steps for outcome in here} == {30}


class Broken(gymnasium.Env):
    """Fails as it is told."""

    def __init__(self, how):
        self.action_space = gymnasium.spaces.Box(0, 1, (1,))
        if how == "no package":
            raise UserError("simulator", fix="pip install it")
        self.how = how

    def reset(self, *, seed=None, options=None):
        if self.how == "dies":
            os._exit(3)
        raise KeyError("lost")


def test_a_mistake_of_the_user_stays_one():
    with pytest.raises(UserError, match=r"simulator\. pip install it"):
        Apart(functools.partial(Broken, "no package"))


@pytest.mark.parametrize(
    ("how", "message"), [("dies", r"died \(exit code 3\)"), ("fails", "KeyError: 'lost'")]
)
def test_what_goes_wrong_over_there_is_told_here(how, message):
    env = Apart(functools.partial(Broken, how))
    with pytest.raises(RuntimeError, match=message):
        env.reset()
    env.close()
