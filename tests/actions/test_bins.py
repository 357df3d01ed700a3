import json

import numpy as np
import pytest

from vla_jax.actions import bins, centres
from vla_jax.actions.bins import Bins, BinsConfig
from vla_jax.core.errors import UserError

COUNTS = (2, 3, 7, 16, 100, 255, 256, 257, 1024, 4096)
rng = np.random.default_rng(0)
X = np.concatenate([np.linspace(-1, 1, 10_001), rng.uniform(-1, 1, 10_000)]).astype(np.float32)
SAMPLE = np.clip(rng.normal(0, 0.2, 20_000), -1, 1).astype(np.float32)
GRIPPER = np.where(np.arange(1000) % 3, -1, 1).astype(np.float32)


def column(values):
    return np.asarray(values)[:, None]


def encode(x, count, **options):
    return Bins((count,), **options).encode(column(x))[:, 0]


def decode(index, count, **options):
    return Bins((count,), **options).decode(column(index))[:, 0]


def made(kind, count, values=SAMPLE):
    return bins.make(BinsConfig(kind=kind, count=count), column(values), (False,), "arm")


@pytest.mark.parametrize("count", COUNTS)
def test_values_come_back_within_half_a_bin(count):
    index = encode(X, count)
    assert index.dtype == np.int32
    assert (index.min(), index.max()) == (0, count - 1)
    assert np.abs(decode(index, count) - X).max() <= 1 / count + 1e-6


def test_every_count_there_may_be_comes_back_within_half_a_bin():
    x = X[::20]
    for count in range(2, 4097):
        index = encode(x, count)
        assert np.abs(decode(index, count) - x).max() <= 1 / count + 1e-6, count
        every = np.arange(count)
        np.testing.assert_array_equal(encode(decode(every, count), count), every)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["quantile", "mu_law"])
def test_values_of_other_kinds_come_back_as_the_nearest_centre(kind, count):
    cut = made(kind, count)
    (points,) = cut.centres()
    assert points.dtype == np.float32
    assert len(points) == count
    assert (np.diff(points) > 0).all()
    assert (np.abs(points) <= 1).all()
    index = cut.encode(column(X))
    found = cut.decode(index)[:, 0]
    error = np.abs(found - X)
    # Half a bin: half the way to the next centre, on the side where the value lies.
    beyond = np.concatenate([[-np.inf], points, [np.inf]])
    side = np.where(found > X, beyond[index[:, 0]], beyond[index[:, 0] + 2])
    inside = np.isfinite(side)
    assert (error <= np.where(inside, np.abs(side - found) / 2, 2) + 1e-6)[inside].all()
    ends = np.array([points[0] + 1, 1 - points[-1]])
    assert (error[~inside] <= ends.max() + 1e-6).all()
    np.testing.assert_array_equal(cut.encode(column(points))[:, 0], np.arange(count))


@pytest.mark.parametrize("count", [16, 256])
def test_quantile_bins_are_used_equally(count):
    used = np.bincount(made("quantile", count).encode(column(SAMPLE))[:, 0], minlength=count)
    assert used.min() > 0
    inner = used[1:-1] / used.mean()
    assert 0.6 < inner.min() <= inner.max() < 1.6
    uniform = np.bincount(encode(SAMPLE, count), minlength=count)
    assert uniform.std() > 3 * used.std()


@pytest.mark.parametrize("count", COUNTS)
def test_quantile_bins_keep_values_that_occur_often_exactly(count):
    cut = made("quantile", count, GRIPPER)
    np.testing.assert_array_equal(cut.decode(cut.encode(column(GRIPPER)))[:, 0], GRIPPER)
    # Nine commands, one of them in most steps, as in the tabletop.
    speeds = np.concatenate([np.zeros(5000), np.repeat(np.linspace(-1, 1, 9), 100)])
    cut = made("quantile", count, speeds.astype(np.float32))
    error = np.abs(cut.decode(cut.encode(column(speeds)))[:, 0] - speeds)
    assert error.max() == 0 if count >= 9 else error.max() <= 1
    assert error[:5000].max() == 0


def test_quantile_bins_spend_on_the_rest_what_a_frequent_value_leaves():
    values = np.concatenate([np.zeros(9000), np.linspace(-1, 1, 1001)]).astype(np.float32)
    (points,) = made("quantile", 64, values).centres()
    assert 0 in points
    assert np.diff(points).max() < 0.06  # of 2 / 64 = 0.03 each


@pytest.mark.parametrize("value", [-1, 0, 0.3, 1])
def test_a_dimension_that_never_moves_has_bins_everywhere(value):
    (points,) = made("quantile", 256, np.full(50, value)).centres()
    assert np.float32(value) in points
    assert np.diff(points).max() <= 2 / 128


def test_mu_law_is_its_formula():
    points = centres.mu_law(256)
    u = np.sign(points) * np.log1p(255 * np.abs(points.astype(np.float64))) / np.log(256)
    np.testing.assert_allclose(u, (np.arange(256) + 0.5) / 128 - 1, atol=1e-6)
    np.testing.assert_array_equal(points, -points[::-1])
    assert np.diff(points).min() < 2 / 256 / 20


@pytest.mark.parametrize("kind", ["uniform", "quantile", "mu_law"])
def test_each_dimension_has_its_own_count(kind):
    config = BinsConfig(kind=kind, counts=(4, 2, 300))
    assert config.largest == 300
    values = np.stack([SAMPLE, GRIPPER[:1].repeat(len(SAMPLE)), SAMPLE / 2], axis=1)
    cut = bins.make(config, values, (False,) * 3, "arm")
    index = cut.encode(np.stack([X, X, X], axis=1).reshape(3, -1, 3))
    assert index.shape == (3, len(X) // 3, 3)
    assert index.reshape(-1, 3).max(axis=0).tolist() == [3, 1, 299]
    assert [len(row) for row in cut.centres()] == [4, 2, 300]
    # A bin that a dimension does not have is its last one.
    np.testing.assert_array_equal(
        cut.decode(np.array([299, 299, 299])), [row[-1] for row in cut.centres()]
    )


@pytest.mark.parametrize("kind", ["uniform", "quantile", "mu_law"])
def test_bins_survive_a_json_file_exactly(kind):
    cut = made(kind, 100)
    again = Bins.from_json(json.loads(json.dumps(cut.to_json())))
    np.testing.assert_array_equal(again.encode(column(X)), cut.encode(column(X)))
    np.testing.assert_array_equal(again.centres(), cut.centres())


def test_counts_of_other_dimensions_are_refused():
    with pytest.raises(UserError, match=r"counts for the actions of arm: expected 1 numb.*found 2"):
        bins.make(BinsConfig(counts=(4, 4)), column(SAMPLE), (False,), "arm")


def test_a_convention_has_equal_bins():
    with pytest.raises(UserError, match=r"convention=rt1: expected uniform, found quantile"):
        BinsConfig(kind="quantile", convention="rt1")


@pytest.mark.parametrize("count", COUNTS)
def test_openvla_is_its_published_formula(count):
    edges = np.linspace(-1, 1, count)
    middles = (edges[:-1] + edges[1:]) / 2
    numbers = np.digitize(X, edges)  # 1..count; the token is vocabulary - number
    index = encode(X, count, convention="openvla")
    np.testing.assert_array_equal(index, numbers - 1)
    wanted = middles[np.clip(np.arange(count), 0, len(middles) - 1)]
    found = decode(np.arange(count), count, convention="openvla")
    np.testing.assert_allclose(found, wanted, atol=1e-7)


@pytest.mark.parametrize("count", COUNTS)
def test_rt1_truncates_and_decodes_to_the_left_end(count):
    index = encode(X, count, convention="rt1")
    np.testing.assert_array_equal(index, ((X + 1) / 2 * np.float32(count - 1)).astype(np.int32))
    found = decode(index, count, convention="rt1")
    np.testing.assert_allclose(found, index / (count - 1) * 2 - 1, atol=1e-7)
    error = X - found
    assert error.min() > -1e-6
    assert error.max() < 2 / (count - 1) + 1e-6


@pytest.mark.parametrize("count", COUNTS)
def test_every_bin_is_the_bin_of_its_centre(count):
    index = np.arange(count)
    points = decode(index, count)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(encode(points, count), index)
    np.testing.assert_allclose(np.diff(points), 2 / count, rtol=1e-2)
    np.testing.assert_allclose(points.mean(), 0, atol=1e-6)  # no bias


def test_bins_by_hand():
    assert encode(np.array([-1, -0.51, -0.5, 0, 0.49, 0.5, 1]), 4).tolist() == [
        *(0, 0, 1, 2, 2, 3, 3)
    ]
    assert decode(np.arange(4), 4).tolist() == [-0.75, -0.25, 0.25, 0.75]


def test_values_out_of_range_take_the_outer_bins():
    assert encode(np.array([-5, 5, -np.inf, np.inf]), 256).tolist() == [0, 255, 0, 255]


@pytest.mark.parametrize("count", [-1, 0, 1, 4097])
def test_counts_out_of_range_are_refused(count):
    with pytest.raises(UserError, match=rf"BinsConfig\.count: expected 2\.\.4096, found {count}"):
        BinsConfig(count=count)


def test_the_outer_counts_are_allowed():
    assert [BinsConfig(count=count).count for count in (2, 4096)] == [2, 4096]
