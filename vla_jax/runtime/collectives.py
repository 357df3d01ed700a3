"""How fast the devices of a job exchange data, and whether they add up right."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

_AXIS = "all"
_REPEATS = 3
_MIB = 2**20


class Speed(NamedTuple):
    """One measurement.

    Attributes:
      collective: `all-reduce` or `all-gather`.
      size: bytes of the result on each device.
      seconds: the shortest of some repetitions.
      rate: bytes/s that each device sends, as a ring would do it; comparable across collectives
        and numbers of devices ("bus bandwidth", NCCL tests, doc/PERFORMANCE.md).
    """

    collective: str
    size: int
    seconds: float
    rate: float


def add_up() -> bool:
    """Whether the sum of the numbers of all devices is what it should be, as this process sees it.

    All processes have to call this.
    """
    devices = jax.devices()
    spread = jax.sharding.NamedSharding(_mesh(), P(_AXIS))
    numbers = np.arange(1, len(devices) + 1, dtype=np.float32)
    array = jax.make_array_from_callback(numbers.shape, spread, lambda where: numbers[where])
    whole = jax.sharding.NamedSharding(_mesh(), P())
    total = jax.jit(jnp.sum, out_shardings=whole)(array).addressable_data(0)
    return float(total) == numbers.sum()


def speeds(mebibytes: Sequence[int] = (1, 16, 64)) -> list[Speed]:
    """Measures all-reduce and all-gather over all devices; all processes have to call this.

    Args:
      mebibytes: sizes of the result on each device.
    """
    return [measure(size * _MIB) for size in mebibytes for measure in (_all_reduce, _all_gather)]


def _all_reduce(size: int) -> Speed:
    count = jax.device_count()
    seconds = _seconds(lambda x: jax.lax.psum(x, _AXIS), size // 4 * count)
    return Speed("all-reduce", size, seconds, 2 * (count - 1) / count * size / seconds)


def _all_gather(size: int) -> Speed:
    count = jax.device_count()
    each = max(size // 4 // count, 1)
    seconds = _seconds(lambda x: jax.lax.all_gather(x, _AXIS, tiled=True), each * count)
    return Speed("all-gather", size, seconds, (count - 1) / count * size / seconds)


def _seconds(collective: Callable[[jax.Array], jax.Array], elements: int) -> float:
    """Times a collective over an array of so many float32 in all, one part on each device."""
    spread = jax.sharding.NamedSharding(_mesh(), P(_AXIS))
    array = jax.jit(lambda: jnp.ones(elements, jnp.float32), out_shardings=spread)()
    # Each device keeps its own result, so that nothing of it can be left out.
    mapped = jax.shard_map(collective, mesh=_mesh(), in_specs=P(_AXIS), out_specs=P(_AXIS))
    program = jax.jit(mapped)
    jax.block_until_ready(program(array))
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(program(array))
        times.append(time.perf_counter() - start)
    return min(times)


def _mesh() -> jax.sharding.Mesh:
    kinds = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((jax.device_count(),), (_AXIS,), axis_types=kinds)
