"""RT-1's own codec: ranges, modes, what truncation costs. test_golden_rt1 has the authors'."""

import numpy as np
import pytest

from vla_jax.actions import rt1
from vla_jax.actions.bins import Bins

SIZES = {
    "world_vector": (3, 2.0),
    "rotation_delta": (3, np.pi / 2),
    "gripper_closedness_action": (1, 1.0),
    "base_displacement_vertical_rotation": (1, np.pi),
    "base_displacement_vector": (2, 1.0),
}


def draw(steps, excess=1.0):
    rng = np.random.default_rng(0)
    actions = {
        name: rng.uniform(-excess * bound, excess * bound, (steps, size)).astype(np.float32)
        for name, (size, bound) in SIZES.items()
    }
    return actions | {rt1.MODE: np.eye(3, dtype=np.int32)[rng.integers(0, 3, steps)]}


@pytest.mark.parametrize("vocabulary", [32, 256, 512])
def test_a_value_loses_less_than_one_token(vocabulary):
    actions = draw(2000)
    tokens = rt1.encode(actions, vocabulary, (-2.0, 2.0))
    assert tokens.shape == (2000, 11)
    assert tokens.dtype == np.int32
    back = rt1.decode(tokens, vocabulary, (-2.0, 2.0))
    np.testing.assert_array_equal(back.pop(rt1.MODE), actions[rt1.MODE])
    for name, value in back.items():
        lost = (actions[name] - value) / (2 * SIZES[name][1]) * (vocabulary - 1)
        assert -1e-3 < lost.min() < lost.max() < 1 + 1e-3
        assert abs(lost.mean() - 0.5) < 0.02, "truncated: low by half a token"


def test_values_outside_are_clipped():
    tokens = rt1.encode(draw(500, excess=3.0), 256, (-2.0, 2.0))
    assert (tokens[:, 1:].min(axis=0) == 0).all()
    assert (tokens[:, 1:].max(axis=0) == 255).all()


def test_a_token_that_is_no_mode():
    tokens = np.zeros((2, 11), np.int32)
    tokens[1, 0] = 3
    modes = rt1.decode(tokens, 256)[rt1.MODE]
    np.testing.assert_array_equal(modes, [[1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(rt1.settle(modes), [[1, 0, 0], [0, 0, 1]])


def test_bins_of_the_convention_round_otherwise():
    """Why there is a codec: by way of [-1, 1] a few values land in the token beside."""
    tokens = np.tile(np.arange(256)[:, None], 11)
    actions = rt1.decode(np.where(np.arange(11), tokens, 0), 256)
    angle = actions["rotation_delta"]
    ours = rt1.encode(actions, 256)[:, 4:7]
    others = Bins((256,) * 3, "rt1").encode(angle / np.float32(np.pi / 2))
    assert np.abs(ours - others).max() == 1
