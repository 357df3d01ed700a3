import types

import numpy as np
import pytest

from vla_jax.runtime import memory

GIB = 2**30


def test_the_host_holds_what_is_held():
    before = memory.taken()["memory/host"]
    held = np.ones(GIB // 8 // 2)  # half a GiB
    assert memory.taken()["memory/host"] - before == pytest.approx(0.5, abs=0.1)
    assert held.sum() == len(held)


def test_the_peak_is_that_of_the_fullest_device(monkeypatch):
    devices = [
        types.SimpleNamespace(memory_stats=lambda peak=peak: {"peak_bytes_in_use": peak * GIB})
        for peak in (3, 7, 5)
    ]
    monkeypatch.setattr(memory.jax, "local_devices", lambda: devices)
    assert memory.taken()["memory/device_peak"] == 7


@pytest.mark.parametrize("stats", [None, {}, {"bytes_in_use": 5}])
def test_devices_that_do_not_tell_have_no_peak(monkeypatch, stats):
    device = types.SimpleNamespace(memory_stats=lambda: stats)
    monkeypatch.setattr(memory.jax, "local_devices", lambda: [device])
    assert set(memory.taken()) == {"memory/host"}
