"""Memory: what there is, and what this process takes, on its devices and on its host."""

import jax
import psutil

_GIB = 2**30


def limit() -> int:
    """Returns the bytes of memory of this process's devices, or of the host if they do not tell."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    limits = [found["bytes_limit"] for found in stats if "bytes_limit" in found]
    return sum(limits) if len(limits) == len(stats) else host()


def host() -> int:
    """Returns the bytes of memory of this machine."""
    return psutil.virtual_memory().total


def taken() -> dict[str, float]:
    """Returns GiB: `memory/host`, resident now, and `memory/device_peak`, the most on any device.

    The latter is left out where the devices do not tell, as CPUs.
    """
    values = {"memory/host": psutil.Process().memory_info().rss / _GIB}
    peaks = [
        stats["peak_bytes_in_use"]
        for device in jax.local_devices()
        if (stats := device.memory_stats()) and "peak_bytes_in_use" in stats
    ]
    return values | ({"memory/device_peak": max(peaks) / _GIB} if peaks else {})
