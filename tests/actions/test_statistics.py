import json

import numpy as np
import pytest

from vla_jax.actions.statistics import Statistics
from vla_jax.core.errors import UserError

ACTIONS = np.random.default_rng(0).normal([0, 5], [1, 0.1], (5000, 2)).astype(np.float32)


def test_statistics_are_numpys_per_dimension():
    found = Statistics.of(ACTIONS)
    x = ACTIONS.astype(np.float64)
    np.testing.assert_allclose(found.q01, np.quantile(x, 0.01, axis=0))
    np.testing.assert_allclose(found.q99, np.quantile(x, 0.99, axis=0))
    np.testing.assert_allclose(found.mean, x.mean(0))
    np.testing.assert_allclose(found.std, x.std(0))
    assert found.low == tuple(x.min(0))
    assert found.high == tuple(x.max(0))
    assert found.count == 5000


def test_statistics_survive_a_json_file_exactly():
    found = Statistics.of(ACTIONS)
    assert Statistics.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_one_step_is_enough():
    found = Statistics.of(ACTIONS[:1])
    assert found.q01 == found.q99 == found.mean
    assert found.std == (0.0, 0.0)


def test_no_steps_are_refused():
    with pytest.raises(UserError, match="no training step"):
        Statistics.of(ACTIONS[:0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_place(value):
    broken = ACTIONS.copy()
    broken[17, 1] = value
    with pytest.raises(UserError, match=rf"step 17, dimension 1: expected finite.*{value}"):
        Statistics.of(broken)
