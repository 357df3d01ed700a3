"""The results as tables, on the console and in markdown."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg
import turns

from loading.measure import BATCH, CHUNK, SIDE

_LOADERS = (
    "loader, augmentation",
    "CPU-ms/frame",
    "frames/s/core",
    "times the floor",
    "wall frames/s",
    "first batch s",
    "memory MB",
    "episodes %",
)


_FLOORS = {
    "floor_ms": "decode and resize alone in as many threads: the floor",
    "floor_ms_of_one": "decode and resize alone in one thread, other cores idle",
}


def show(results: Mapping[str, list[Any]], loads: Sequence[float]) -> str:
    """Prints the tables and returns them as markdown.

    Args:
      results: row -> what its processes returned.
      loads: load averages of the machine before each process.
    """
    loaders = {row: runs for row, runs in results.items() if runs and "cpu_ms" in runs[0]}
    tables = [turns.Table(_setting(loads), _LOADERS, _compare(loaders))] if loaders else []
    for row in results.keys() - loaders.keys():
        if results[row]:
            header = list(results[row][0][0])
            lines = [
                [_middle([cells[name] for cells in same]) for name in header]
                for same in zip(*results[row], strict=True)
            ]
            tables.append(turns.Table(row, header, lines))
    return turns.show(tables)


def _compare(loaders: Mapping[str, list[dict[str, float]]]) -> list[list[Any]]:
    rows = []
    for name, title in _FLOORS.items():
        floors = [run[name] for runs in loaders.values() for run in runs]
        if not all(map(np.isnan, floors)):
            floor = float(np.nanmedian(floors))
            rows.append([title, _round(floor), round(1000 / floor), *[""] * 5])
    for name, runs in loaders.items():
        # Each run against the floor around it: the load changes both alike.
        ratios = sorted(run["cpu_ms"] / run["floor_ms"] for run in runs)
        middle, low, high = statistics.median(ratios), ratios[0], ratios[-1]
        ratio = "" if np.isnan(ratios).any() else f"{middle:.2f} ({low:.2f} to {high:.2f})"
        cpu = _middle([run["cpu_ms"] for run in runs])
        wall = round(statistics.median(run["wall_fps"] for run in runs))
        rows.append([name, cpu, round(1000 / cpu), ratio, wall])
        rows[-1] += [
            _middle([run["first_batch"] for run in runs]),
            round(statistics.median(run["memory"] for run in runs) / 1e6),
            round(100 * statistics.median(run["distinct"] for run in runs), 1),
        ]
    return rows


def _setting(loads: Sequence[float]) -> str:
    return (
        f"{SIDE}x{SIDE} uint8, {CHUNK} actions, batches of {BATCH}; {platform.machine()}, "
        f"{os.cpu_count()} cores, load {min(loads):.1f} to {max(loads):.1f}; Python "
        f"{platform.python_version()}, simplejpeg {simplejpeg.__version__}, "
        f"OpenCV {cv2.__version__}"
    )


def _middle(values: Sequence[Any]) -> Any:
    """Returns the median of numbers; of texts, which are all the same, the first."""
    return values[0] if isinstance(values[0], str) else _round(statistics.median(values))


def _round(value: float) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.3g}")
