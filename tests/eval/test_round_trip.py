import numpy as np
import pytest

from vla_jax.actions import bins
from vla_jax.actions.bins import BinsConfig
from vla_jax.actions.statistics import Statistics
from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.eval import round_trip
from vla_jax.tokens.action_tokens import ActionTokens, normalizer
from vla_jax.tokens.fast import Fast, FastConfig
from vla_jax.tokens.fast_tokens import FastTokens

SPEC = TABLETOP.spec
rng = np.random.default_rng(0)
CHUNKS = rng.uniform(SPEC.low, SPEC.high, (500, 4, 8)).astype(np.float32)
CHUNKS[..., 0] = np.rint(CHUNKS[..., 0])
CHUNKS[..., 7] = rng.random((500, 4)) < 0.2
STATISTICS = Statistics.of(CHUNKS.reshape(-1, 8))


def measured(kind="uniform", count=16):
    values = normalizer(STATISTICS, SPEC, "uniform").normalize(CHUNKS.reshape(-1, 8))
    cut = bins.make(BinsConfig(kind=kind, count=count), values, SPEC.discrete, "tabletop")
    tokens = ActionTokens(SPEC, STATISTICS, tuple(range(5, 5 + count)), cut)
    return {dimension.name: dimension for dimension in round_trip.measure(tokens, CHUNKS)}


def test_errors_of_equal_bins_are_what_arithmetic_says():
    found = measured()
    width = (STATISTICS.q99[1] - STATISTICS.q01[1]) / 16
    assert found["dx"].mean == pytest.approx(width / 4, rel=0.1)
    cut = max(STATISTICS.high[1] - STATISTICS.q99[1], STATISTICS.q01[1] - STATISTICS.low[1])
    assert found["dx"].worst == pytest.approx(cut + width / 2, rel=1e-4)
    assert found["dx"].clipped == pytest.approx(0.02, abs=0.002)
    assert (found["dx"].bins, found["dx"].dead) == (16, 0)
    assert found["dx"].fullest == pytest.approx(1 / 16, rel=0.3)
    assert 14 < found["dx"].in_use <= 16
    assert (found["terminate"].bins, found["terminate"].worst) == (2, 0)
    gripper = found["gripper"]
    assert (gripper.bins, gripper.dead) == (16, 14)
    assert gripper.mean == pytest.approx(1 / 32, rel=1e-4)
    assert gripper.fullest == pytest.approx(0.8, abs=0.03)
    p = gripper.fullest  # and 1 - p in another one
    assert gripper.in_use == pytest.approx(p**-p * (1 - p) ** -(1 - p), rel=1e-6)
    assert len(found["dx"].row()) == len(round_trip.HEADER)


def test_quantile_bins_have_no_error_where_values_are_few():
    found = measured("quantile")
    assert found["gripper"].worst == 0
    assert found["dx"].dead == 0


def test_fast_has_errors_and_no_bins():
    tokens = FastTokens(SPEC, STATISTICS, (), Fast.train([np.zeros((1, 4, 8))], FastConfig()))
    fast = Fast.train([tokens.normalize(CHUNKS)], FastConfig(size=300))
    tokens = FastTokens(SPEC, STATISTICS, tuple(range(len(fast.pieces))), fast)
    dimensions = {d.name: d for d in round_trip.measure(tokens, CHUNKS)}
    width = (STATISTICS.q99[1] - STATISTICS.q01[1]) / 2
    assert 0 < dimensions["dx"].mean < 0.05 * width
    assert dimensions["terminate"].worst == 0
    assert dimensions["dx"].row()[-4:] == ("", "", "", "")
    mean, most = round_trip.lengths(tokens, CHUNKS)
    assert 4 <= mean <= most <= 32
