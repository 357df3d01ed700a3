import dataclasses

import numpy as np
import pytest

from vla_jax.tokens.action_tokens import ActionTokens
from vla_jax.tokens.grammar import action_mask


@pytest.mark.parametrize("chunk", [1, 3])
def test_each_position_allows_exactly_its_bins(spec, statistics, chunk):
    ids = (9, 4, 30, 17, 5)
    mask = action_mask(ActionTokens(spec, statistics, ids), 40, chunk)
    assert mask.shape == (4 * chunk, 40)
    assert mask.dtype == bool
    for position, row in enumerate(mask):
        # terminate is the first of every action, and has two values
        legal = {9, 4} if position % 4 == 0 else set(ids)
        assert set(np.flatnonzero(row)) == legal


def test_terminate_may_stand_anywhere_in_the_action(spec, statistics):
    moved = dataclasses.replace(spec, discrete=(False, False, False, True))
    mask = action_mask(ActionTokens(moved, statistics, tuple(range(8))), 8)
    assert mask.sum(axis=1).tolist() == [8, 8, 8, 2]


def test_whatever_the_grammar_allows_can_be_decoded(spec, statistics):
    tokens = ActionTokens(spec, statistics, tuple(range(10, 26)))
    mask = action_mask(tokens, 64)
    rng = np.random.default_rng(0)
    ids = np.array([[rng.choice(np.flatnonzero(row)) for row in mask] for _ in range(50)])
    actions = tokens.decode(ids)
    assert set(actions[:, 0]) == {0.0, 1.0}
    low = np.where(np.array(spec.discrete), spec.low, np.minimum(spec.low, statistics.q01))
    assert (actions >= low - 1e-6).all()
