import numpy as np
import pytest

from vla_jax.actions import bins
from vla_jax.core.errors import UserError

COUNTS = (2, 3, 7, 16, 100, 255, 256, 257, 1024, 4096)


@pytest.mark.parametrize("count", COUNTS)
def test_values_come_back_within_half_a_bin(count):
    x = np.concatenate(
        [np.linspace(-1, 1, 10_001), np.random.default_rng(0).uniform(-1, 1, 10_000)]
    ).astype(np.float32)
    index = bins.encode(x, count)
    assert index.dtype == np.int32
    assert (index.min(), index.max()) == (0, count - 1)
    assert np.abs(bins.decode(index, count) - x).max() <= 1 / count + 1e-6


@pytest.mark.parametrize("count", COUNTS)
def test_every_bin_is_the_bin_of_its_centre(count):
    index = np.arange(count)
    centres = bins.decode(index, count)
    assert centres.dtype == np.float32
    np.testing.assert_array_equal(bins.encode(centres, count), index)
    np.testing.assert_allclose(np.diff(centres), 2 / count, rtol=1e-2)
    np.testing.assert_allclose(centres.mean(), 0, atol=1e-6)  # no bias


def test_bins_by_hand():
    assert bins.encode(np.array([-1, -0.51, -0.5, 0, 0.49, 0.5, 1]), 4).tolist() == [
        *(0, 0, 1, 2, 2, 3, 3)
    ]
    assert bins.decode(np.arange(4), 4).tolist() == [-0.75, -0.25, 0.25, 0.75]


def test_values_out_of_range_take_the_outer_bins():
    assert bins.encode(np.array([-5, 5, -np.inf, np.inf]), 256).tolist() == [0, 255, 0, 255]


@pytest.mark.parametrize("count", [-1, 0, 1, 4097])
def test_counts_out_of_range_are_refused(count):
    with pytest.raises(UserError, match=rf"config\.bins\.count: expected 2\.\.4096, found {count}"):
        bins.BinsConfig(count=count)


def test_the_outer_counts_are_allowed():
    assert [bins.BinsConfig(count=count).count for count in (2, 4096)] == [2, 4096]
