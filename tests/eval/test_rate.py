import json

import numpy as np
import pytest

from vla_jax.eval.rate import Rate


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_the_published_ones(successes, n, low, high):
    rate = Rate.of([True] * successes + [False] * (n - successes))
    assert rate.rate == pytest.approx(successes / n)
    assert rate.episodes == n
    assert (rate.low, rate.high) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


@pytest.mark.parametrize("n", [1, 10, 300])
def test_all_and_nothing_are_mirror_images_with_an_honest_interval(n):
    none, every = Rate.of([False] * n), Rate.of([True] * n)
    assert (none.rate, none.low) == (0, pytest.approx(0, abs=1e-9))
    assert (every.rate, every.high) == (1, pytest.approx(1))
    assert every.high <= 1
    assert none.high == pytest.approx(1 - every.low)
    z2 = 1.959964**2
    assert none.high == pytest.approx(z2 / (n + z2))


def test_any_truth_values_count():
    assert Rate.of(x for x in (np.True_, 0, 1, False)).rate == 0.5


def test_no_trial_has_no_rate():
    with pytest.raises(ValueError, match="no trials"):
        Rate.of([])


def test_json_is_plain_and_rounded():
    found = Rate.of([True, False, False]).to_json()
    assert json.loads(json.dumps(found)) == found
    assert found == {"rate": 0.3333, "low": 0.0615, "high": 0.7923, "episodes": 3}
