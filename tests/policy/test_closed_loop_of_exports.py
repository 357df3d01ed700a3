"""An exported policy drives the tabletop as the JAX policy does: the same actions, step by step."""

import numpy as np
import pytest
from small_policies import CONFIGS, build_policy, export, look_around

from vla_jax.core.episode import Episode
from vla_jax.envs.tabletop.env import TabletopConfig, TabletopEnv
from vla_jax.eval import closed_loop

pytest.importorskip("torch")
import torch_policy

EPISODES = [
    Episode(seed=1_000_000 + n, options={"split": "seen", "task": "pick", "blocks": (2, 3)})
    for n in range(4)
]


class Recorded:
    """A policy that remembers what it did, in the order of its calls."""

    def __init__(self, policy):
        self.policy, self.observer, self.actions = policy, policy.observer, []

    def act_batch(self, observations, instructions):
        values, tokens = self.policy.act_batch(observations, instructions)
        self.actions.append((values, tokens))
        return values, tokens


class Exported:
    """An exported policy in the place of a Policy; it is handed what cameras give, and resizes."""

    def __init__(self, policy):
        self.policy, self.observer = policy, self
        self.views, self.history = policy.views, policy.history

    def look(self, images, state=None):
        return images, state

    def act_batch(self, observations, instructions):
        actions = [
            self.policy.act({view: list(steps) for view, steps in images.items()}, text, state)
            for (images, state), text in zip(observations, instructions, strict=True)
        ]
        return np.stack([a.values for a in actions]), np.stack([a.tokens for a in actions])


def play(policy, episodes=EPISODES, image_size=48):
    recorded = Recorded(policy)
    config = TabletopConfig(image_size=image_size)
    outcomes = closed_loop.play(recorded, lambda: TabletopEnv(config), episodes, slots=2)
    return recorded.actions, [(o.success, o.steps, o.instruction) for o in outcomes]


def build_persistent(history):
    """Builds a policy that never says it is done: both words for it are as likely."""
    built = build_policy(CONFIGS["multi_query"], history=history, seed=2, prefix=80)
    go_on, stop = built.policy.action_tokens.ids[:2]
    decoder = built.policy.params["decoder"]
    decoder["embedding"] = decoder["embedding"].at[stop].set(decoder["embedding"][go_on])
    return built


@pytest.mark.parametrize("history", [1, 2])
def test_every_step_of_every_episode_is_the_same(tmp_path, history):
    built = build_persistent(history)
    out = export(built, tmp_path / "policy", look_around(built, 4))
    ours, our_outcomes = play(built.policy)
    theirs, their_outcomes = play(Exported(torch_policy.TorchPolicy.load(out)))
    assert len(ours) == len(theirs) > 30
    for (values, tokens), (other_values, other_tokens) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(tokens, other_tokens)
        np.testing.assert_array_equal(values, other_values)
    assert our_outcomes == their_outcomes
    assert len(np.unique(np.concatenate([tokens for _, tokens in ours]), axis=0)) > 3
