"""What checksums cost: of images when they are read, of records when they are indexed."""

import contextlib
import dataclasses
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from unittest import mock

import numpy as np

from loading import measure, opened
from loading.datasets import DATASETS, Dataset, size
from vla_jax.data import checksums, indexing, sealed
from vla_jax.data.augment import AugmentConfig
from vla_jax.data.frame_index import FrameIndex

_ROUNDS = 12  # of batches with and without, by turns
_INDEXED = 5  # makings of an index with checksums and without, by turns


def batches(root: pathlib.Path, *, seconds: float) -> list[dict[str, float]]:
    """Compares batches whose images are verified with batches as they are.

    One loader is timed by turns, with and without.

    Returns:
      One row of columns: CPU microseconds per frame of each, the ratio, its error.
    """
    meter = measure.Meter()
    sources = opened.sources(root)
    loader = opened.loader(sources, opened.encoder(sources), AugmentConfig(), prefetch=1)
    spent: dict[bool, list[float]] = {True: [], False: []}
    measure.window(loader, opened.rows, meter, 2.0)
    for k in range(_ROUNDS):
        for checked in (True, False) if k % 2 else (False, True):
            with contextlib.nullcontext() if checked else _unchecked():
                next(loader)  # was made before, in part
                cpu, _ = measure.window(loader, opened.rows, meter, seconds / _ROUNDS)
            spent[checked].append(1e6 * cpu)
    ratios = np.divide(spent[True], spent[False])
    return [
        {
            "unchecked, CPU us/frame": float(np.median(spent[False])),
            "checked, CPU us/frame": float(np.median(spent[True])),
            "ratio": float(np.median(ratios)),
            "standard error": 1.25 * float(np.std(ratios)) / _ROUNDS**0.5,
        }
    ]


def index(root: pathlib.Path) -> list[dict[str, float | str]]:
    """Measures the making of each index, the standardised columns with it, files in memory.

    By turns with its checksums and without, the least of some rounds each.
    """
    rows: list[dict[str, float | str]] = []
    for dataset in DATASETS:
        directory = dataset.directory(root)
        for path in directory.iterdir():  # into memory, whatever the system has dropped meanwhile
            if path.is_file():
                path.read_bytes()
        made: dict[bool, list[_Made]] = {True: [], False: []}
        for k in range(_INDEXED):
            for checked in (True, False) if k % 2 else (False, True):
                with contextlib.nullcontext() if checked else _unchecked():
                    made[checked].append(_make(root, dataset))
        data = size(directory)
        best, bare = (min(each, key=lambda one: one.cpu) for each in (made[True], made[False]))
        wall, bare_wall = (min(one.wall for one in each) for each in (made[True], made[False]))
        rows.append(
            {
                "dataset": dataset.name,
                "frames": best.frames,
                "data MB": data / 1e6,
                "index, % of data": 100 * best.bytes / data,
                "CPU us/frame": 1e6 * best.cpu / best.frames,
                "without checksums": 1e6 * bare.cpu / bare.frames,
                "ratio": best.cpu / bare.cpu,
                "s": wall,
                "ratio of s": wall / bare_wall,
                "with standard columns, %": 100 * best.bytes_with / data,
                "with them, CPU us/frame": 1e6 * best.cpu_with / best.frames,
            }
        )
    return rows


@dataclasses.dataclass(frozen=True)
class _Made:
    """One making of an index: seconds, bytes, and the same with the standard columns."""

    frames: int
    cpu: float
    wall: float
    bytes: int
    cpu_with: float
    bytes_with: int


def _make(root: pathlib.Path, dataset: Dataset) -> _Made:
    cache = pathlib.Path(tempfile.mkdtemp(prefix="index-", dir=root))
    try:
        cpu, wall = time.process_time(), time.perf_counter()
        made = indexing.build(
            dataset.directory(root), "train", opened.wanted(dataset), cache_dir=cache
        )
        indexed = time.process_time() - cpu, time.perf_counter() - wall, _bytes(cache)
        opened.episodes(made, dataset)
        return _Made(len(made), *indexed, time.process_time() - cpu, _bytes(cache))
    finally:
        shutil.rmtree(cache)


def _bytes(folder: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def _unchecked() -> Iterator[None]:
    """Leaves all checksums of data out."""

    def trace(record: object, spans: np.ndarray) -> np.ndarray:
        del record
        return np.zeros((len(spans), 2), np.uint32)

    with (
        mock.patch.object(checksums, "trace", trace),
        mock.patch.object(FrameIndex, "checked", lambda self, camera, i, image: image),
        mock.patch.object(sealed, "_checksums", return_value=()),
    ):
        yield
