"""What a loader costs its process tree: CPU, wall-clock time, memory, the wait for a batch."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import psutil

BATCH = 128  # examples of a batch
CHUNK = 4  # actions of an example
SIDE = 224  # pixels
_WARM_UP = 8  # batches, at least, before anything is timed but the first

Batches = Iterator[Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One loader, once.

    Attributes:
      cpu_ms: CPU time per frame of the process tree, user and system, milliseconds.
      wall_fps: frames per second.
      first_batch: seconds from the first call to the first batch; imports are not in it.
      memory: most bytes resident above those after the imports.
      distinct: share of the episodes that a uniform draw would bring into a batch, mean; NaN
        where it was not counted.
      floor_ms: CPU time per frame of decoding and resizing alone in as many threads, the mean of
        before and after; NaN where it was not measured.
      floor_ms_of_one: the same in one thread, other cores idle.
    """

    cpu_ms: float
    wall_fps: float
    first_batch: float
    memory: float
    distinct: float = float("nan")
    floor_ms: float = float("nan")
    floor_ms_of_one: float = float("nan")


class Meter:
    """CPU time and memory of this process and of those it started."""

    def __init__(self) -> None:
        """Begins: memory counts from here."""
        self._process = psutil.Process()
        self._before = _status("self", "VmRSS")

    def forget_peak(self) -> None:
        """Forgets what was resident for a while and is no longer."""
        pathlib.Path("/proc/self/clear_refs").write_text("5")

    def cpu(self) -> float:
        """Returns the CPU seconds so far, those of ended children included."""
        own = self._process.cpu_times()
        others = [child.cpu_times() for child in self._children()]
        ended = own.children_user + own.children_system
        return own.user + own.system + ended + sum(times.user + times.system for times in others)

    def memory(self) -> int:
        """Returns the most bytes resident since the peak was forgotten, above the beginning's."""
        others = sum(_status(str(child.pid), "VmHWM") for child in self._children())
        return _status("self", "VmHWM") - self._before + others

    def _children(self) -> list[psutil.Process]:
        return self._process.children(recursive=True)


def run(
    open_batches: Callable[[], Batches],
    rows: Callable[[Any], int],
    meter: Meter,
    *,
    seconds: float,
    warm_up: float,
) -> Measured:
    """Opens a loader and takes batches as fast as they come.

    Args:
      open_batches: opens it.
      rows: returns the number of examples of a batch.
      meter: begun when everything was imported.
      seconds: how long it is timed.
      warm_up: seconds before that, for loaders that tune themselves.
    """
    meter.forget_peak()
    began = time.perf_counter()
    batches = open_batches()
    rows(next(batches))
    first_batch = time.perf_counter() - began
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < warm_up or count < _WARM_UP:
        next(batches)
        count += 1
    cpu, wall = window(batches, rows, meter, seconds)
    return Measured(
        cpu_ms=1000 * cpu, wall_fps=1 / wall, first_batch=first_batch, memory=meter.memory()
    )


def window(
    batches: Batches, rows: Callable[[Any], int], meter: Meter, seconds: float
) -> tuple[float, float]:
    """Takes batches for a while; returns CPU and wall-clock seconds per frame."""
    frames, cpu, wall = 0, meter.cpu(), time.perf_counter()
    while (passed := time.perf_counter() - wall) < seconds:
        frames += rows(next(batches))
    return (meter.cpu() - cpu) / frames, passed / frames


def distinct(
    batches: Sequence[Sequence[tuple[str, Hashable]]], lengths: Mapping[str, np.ndarray]
) -> float:
    """Returns the episodes per batch as a share of what a uniform draw would bring.

    Args:
      batches: dataset and episode of each example.
      lengths: dataset -> frames of each of its episodes, int [e].
    """
    found, expected = 0, 0.0
    for batch in batches:
        found += len(set(batch))
        for dataset, frames in lengths.items():
            drawn = sum(name == dataset for name, _ in batch)
            # With replacement: an episode is missed by all of them, or it is in the batch.
            expected += float(np.sum(1 - (1 - frames / frames.sum()) ** drawn))
    return found / expected


def _status(process: str, field: str) -> int:
    for line in pathlib.Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return 0
