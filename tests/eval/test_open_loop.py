import types

import numpy as np
import pytest

from vla_jax.actions.statistics import Statistics
from vla_jax.core.batch import Example
from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.eval.open_loop import action_error
from vla_jax.tokens.action_tokens import ActionTokens

RNG = np.random.default_rng(0)
LOW, HIGH = np.array(TABLETOP.spec.low), np.array(TABLETOP.spec.high)
ACTIONS = RNG.uniform(LOW, HIGH, (40, 8)).astype(np.float32)
ACTIONS[:, 0] = np.arange(40) % 2
TOKENS = ActionTokens(TABLETOP.spec, Statistics.of(ACTIONS), tuple(range(10, 266)))
EXAMPLES = [
    Example(
        images={"primary": (bytes([i]),)},
        prefix=f"do {i}",
        action=ACTIONS[i][None],
        action_mask=np.ones(1, bool),
        dataset="tabletop",
        episode=i,
    )
    for i in range(6)
]


class Policy:
    """Repeats the demonstration, with an offset in dx."""

    action_tokens = TOKENS
    encoder = types.SimpleNamespace(split=lambda row: (row[:0], row))  # no plan

    def __init__(self, offset=0.0):
        self.offset = offset

    @property
    def observer(self):
        return self

    def read(self, example):
        return example.images["primary"][0][0]

    def act_batch(self, numbers, instructions):
        assert instructions == [f"do {n}" for n in numbers]
        values = ACTIONS[numbers][:, None].copy()
        values[..., 1] += self.offset
        return values, TOKENS.encode(values).reshape(len(numbers), -1)


def test_a_perfect_policy_has_no_error():
    found = action_error(Policy(), EXAMPLES)
    assert set(found) == {"token_accuracy", *(f"error/{name}" for name in TABLETOP.spec.names)}
    assert found.pop("token_accuracy") == 1
    assert set(found.values()) == {0.0}


def test_errors_are_in_robot_units_per_dimension():
    found = action_error(Policy(0.01), EXAMPLES)
    assert found["error/dx"] == pytest.approx(0.01, rel=1e-4)
    assert found["error/dy"] == found["error/terminate"] == 0
    assert found["token_accuracy"] == pytest.approx(7 / 8)
