import numpy as np
import pytest

from vla_jax.actions.bounds import Bounds


@pytest.fixture
def bounds():
    low, high = np.array([-1.0, 0.0, 3.0]), np.array([3.0, 1.0, 3.0])
    return Bounds(low=low, high=high, mask=np.array([True, False, True]))


def test_a_range_becomes_one_and_a_gripper_stays(bounds):
    found = bounds.normalize(np.array([[1.0, 0.25, 3.0], [9.0, 1.0, 4.0]]))
    np.testing.assert_allclose(found, [[0, 0.25, -1], [1, 1, 1]], atol=1e-8)


def test_training_has_zeros_where_nothing_moves(bounds):
    found = bounds.normalize(np.array([-1.0, 0.25, 3.0]), training=True)
    np.testing.assert_allclose(found, [-1, 0.25, 0], atol=1e-8)


def test_back_again_without_clipping(bounds):
    found = bounds.unnormalize(np.array([[0.0, 0.25, 0.0], [2.0, 1.0, 1.0]]))
    np.testing.assert_allclose(found, [[1, 0.25, 3], [5, 1, 3]], atol=1e-7)
