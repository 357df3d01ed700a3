import numpy as np
import pytest

from vla_jax.actions.normalize import Normalizer
from vla_jax.actions.spec import ActionSpec
from vla_jax.actions.statistics import Statistics

SPEC = ActionSpec(
    names=("dx", "dead", "gripper"),
    units=("metres per step", "radians per step", "0..1"),
    low=(-1.0, -1.0, 0.0),
    high=(1.0, 1.0, 1.0),
    discrete=(False, False, False),
    frame="base",
    gripper="0 open, 1 closed",
    control_hz=5.0,
)
STATISTICS = Statistics(
    q01=(-0.02, 0.3, 1.0),
    q99=(0.06, 0.3, 1.0),  # a gripper that is nearly always closed
    mean=(0, 0.3, 1),
    std=(0.02, 0, 0),
    low=(-0.1, 0.3, 0),
    high=(0.1, 0.3, 1),
    count=100,
)


def to(action):
    return Normalizer(STATISTICS, SPEC).normalize(np.asarray(action, np.float32))


def back(x):
    return Normalizer(STATISTICS, SPEC).unnormalize(np.asarray(x, np.float32))


def test_quantiles_become_the_ends():
    np.testing.assert_allclose(
        to([[-0.02, 0.3, 0], [0.02, 0.3, 0.5], [0.06, 0.3, 1]]),
        [[-1, 0, -1], [0, 0, 0], [1, 0, 1]],
        atol=1e-6,
    )


def test_values_beyond_the_quantiles_are_clipped():
    np.testing.assert_array_equal(to([[9, 9, 9], [-9, -9, -9]]), [[1, 0, 1], [-1, 0, -1]])


def test_a_dead_dimension_is_zero_and_comes_back_as_its_constant():
    assert to([0, 0.7, 0])[1] == 0
    for x in (-1, 0, 0.5, 1):
        assert back([0, x, 0])[1] == np.float32(0.3)


def test_the_gripper_uses_its_whole_range_whatever_the_data():
    np.testing.assert_allclose(to([[0, 0, 0.25]])[0, 2], -0.5)
    np.testing.assert_allclose(back([[0, 0, 0.5]])[0, 2], 0.75)


@pytest.mark.parametrize("shape", [(3,), (7, 3), (2, 5, 3)])
def test_back_and_forth_is_the_identity_inside_the_range(shape):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, shape).astype(np.float32)
    x[..., 1] = 0
    found = to(back(x))
    assert found.dtype == back(x).dtype == np.float32
    np.testing.assert_allclose(found, x, atol=1e-5)
