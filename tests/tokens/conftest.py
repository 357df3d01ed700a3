"""A small trained tokenizer and an action space with every kind of dimension."""

import numpy as np
import pytest

from vla_jax.actions.spec import ActionSpec
from vla_jax.actions.statistics import Statistics
from vla_jax.tokens.tokenizer import Tokenizer

TEXTS = (
    "pick up the red cube",
    "move the blue star to the left",
    "what colour is the cube",
    "where is the green moon",
    "<loc0003><loc0012>",
)


@pytest.fixture(scope="session")
def texts():
    return TEXTS


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.train(TEXTS, 512, 32)


@pytest.fixture(scope="session")
def spec():
    return ActionSpec(
        names=("terminate", "dx", "dead", "gripper"),
        units=("0..1", "metres per step", "radians per step", "0..1"),
        low=(0.0, -0.05, -0.3, 0.0),
        high=(1.0, 0.05, 0.3, 1.0),
        discrete=(True, False, False, False),
        frame="table",
        gripper="0 open, 1 closed",
        control_hz=3.0,
    )


@pytest.fixture(scope="session")
def actions():
    """Float32 [400, 4]: terminate 0/1, dx in -0.04..0.04, a dimension at 0.1, gripper 0..1."""
    rng = np.random.default_rng(0)
    return np.stack(
        [
            rng.integers(0, 2, 400),
            rng.uniform(-0.04, 0.04, 400),
            np.full(400, 0.1),
            rng.uniform(0, 1, 400),
        ],
        axis=1,
    ).astype(np.float32)


@pytest.fixture(scope="session")
def statistics(actions):
    return Statistics.of(actions)
