import dataclasses
import types

import numpy as np
import pytest

from vla_jax.train.speed import Speed, Workload

LOAD = Workload(
    batch_size=32,
    devices=4,
    images=2,
    prefix=20,
    suffix=10,
    flops=lambda images, prefix, suffix: 1e9 * images + 1e6 * (prefix + suffix),
    tokens=lambda images, prefix, suffix: 16 * images + prefix + suffix,
    peak=1e12,
)
# Of three steps: two views where one is there, prefixes of 5 and suffixes of 9 on average.
SUMS = {
    "examples": np.array([64.0, 32.0]),
    "images": np.array([96.0, 0.0]),
    "prefix": np.array([320.0, 160.0]),
    "tokens": np.array([640.0, 224.0]),
}


def measure(load=LOAD, sums=SUMS):
    """Ten steps in 2 seconds, a quarter of which were waited for data, after 100 seconds."""
    seconds = iter([100.0, 102.0, 106.0])
    clock = types.SimpleNamespace(seconds=lambda: next(seconds))
    feed = types.SimpleNamespace(waited=3.0)
    speed = Speed(load, clock, feed, step=50)
    feed.waited = 3.5
    first = speed.since(60, sums)
    feed.waited = 3.9
    return first, speed.since(64, sums)


def test_times_are_those_since_the_last_line():
    first, second = measure()
    assert first["speed/step_ms"] == pytest.approx(200)
    assert first["speed/input_wait_ms"] == pytest.approx(50)
    assert second["speed/step_ms"] == pytest.approx(1000)
    assert second["speed/input_wait_ms"] == pytest.approx(100)


def test_rates_are_per_device():
    values, _ = measure()
    rate = 10 * 32 / 2 / 4
    assert values["speed/samples"] == pytest.approx(rate)
    assert values["speed/tokens"] == pytest.approx(rate * (16 * 1 + 5 + 9))
    assert values["speed/mfu"] == pytest.approx(rate * (2e9 + 30e6) / 1e12)
    assert values["speed/useful_mfu"] == pytest.approx(rate * (1e9 + 14e6) / 1e12)


def test_an_unknown_chip_has_no_utilisation():
    values, _ = measure(dataclasses.replace(LOAD, peak=None))
    assert set(values) == {
        *("speed/step_ms", "speed/input_wait_ms", "speed/samples", "speed/tokens")
    }


def test_without_a_finite_step_nothing_is_said_of_what_was_useful():
    values, _ = measure(sums={})
    assert "speed/tokens" not in values
    assert "speed/mfu" in values


def test_no_step_no_speed():
    clock = types.SimpleNamespace(seconds=lambda: 1.0)
    speed = Speed(LOAD, clock, types.SimpleNamespace(waited=0.0), step=5)
    assert speed.since(5, SUMS) == {}
