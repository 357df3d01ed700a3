"""This package's loader on the two datasets, and the floor: decoding and resizing alone."""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from unittest import mock

import cv2
import numpy as np
import simplejpeg

from loading import measure
from loading.datasets import DATASETS, LIBERO, Dataset, size
from loading.measure import BATCH, CHUNK, SIDE, Measured
from vla_jax.core.batch import Batch
from vla_jax.data import checksums, indexing, loader, sealed
from vla_jax.data.augment import AugmentConfig
from vla_jax.data.blocks import BlocksConfig
from vla_jax.data.episodes import Episodes
from vla_jax.data.frame_index import FrameIndex
from vla_jax.data.mixture import MixtureConfig, RobotConfig
from vla_jax.tokens import action_tokens
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.sequence import SequenceConfig
from vla_jax.tokens.tokenizer import Tokenizer

# What Octo trains its primary camera with.
AUGMENTED = AugmentConfig(crop=0.8, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.05)
VARIANTS = {
    "none": AugmentConfig(),
    "crop and colour": AUGMENTED,
    "crop, colour on the device": dataclasses.replace(AUGMENTED, on_device=True),
}
_BINS = 256
_THREADS = os.cpu_count() or 1
_COUNTED = 40  # batches whose episodes are counted
_SAMPLE = 512  # images that the floor decodes
_ROUNDS = 12  # of one source and many, by turns
_INDEXED = 5  # makings of an index with checksums and without, by turns


def prepare(root: pathlib.Path) -> None:
    """Makes the indexes and what is kept beside them, where they are not yet there."""
    _open(root)
    _slices(root, 25)


def floor(root: pathlib.Path, threads: int, seconds: float = 2.0) -> float:
    """Returns CPU milliseconds per frame of decoding and resizing in threads of this process.

    Half of the images are of each dataset, drawn at random; their bytes are in memory. Busy cores
    slow each other down, so a loader is held against a floor of as many threads as it has.
    """
    rng = np.random.default_rng(0)
    images = []
    for dataset in DATASETS:
        index = _index(root, dataset)
        camera = dataset.robot.images["primary"]
        frames = rng.integers(len(index), size=_SAMPLE // 2)
        images.append([index.image_bytes(camera, int(i)) for i in frames])
    mixed = list(itertools.chain.from_iterable(zip(*images, strict=True)))

    def work(_: int) -> tuple[float, int]:
        endless, out = itertools.cycle(mixed), np.zeros((BATCH, SIDE, SIDE, 3), np.uint8)
        count, began, cpu = 0, time.perf_counter(), time.thread_time()
        while time.perf_counter() - began < seconds:
            for row in out:
                image = simplejpeg.decode_jpeg(next(endless), "RGB")
                cv2.resize(image, (SIDE, SIDE), dst=row, interpolation=cv2.INTER_LINEAR)
            count += BATCH
        return time.thread_time() - cpu, count

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        cpu, frames = map(sum, zip(*pool.map(work, range(threads)), strict=True))
    return 1000 * cpu / frames


def run(root: pathlib.Path, variant: str, *, blocks: bool, seconds: float) -> Measured:
    """Measures the loader on the mixture, between two measurements of the floor.

    The tokenizer is made before: a run loads its own from a file.
    """
    meter = measure.Meter()
    encoder = _encoder(_open(root))

    def open_batches() -> Iterator[Batch]:
        opened = _open(root, BlocksConfig() if blocks else None)
        return _loader(opened, encoder, VARIANTS[variant])

    before = floor(root, _THREADS)
    measured = measure.run(open_batches, _rows, meter, seconds=seconds, warm_up=0)
    after = floor(root, _THREADS)
    return dataclasses.replace(
        measured,
        distinct=_distinct(root, encoder, blocks=blocks),
        floor_ms=(before + after) / 2,
        floor_ms_of_one=floor(root, 1),
    )


def sources(root: pathlib.Path, count: int, *, seconds: float) -> list[dict[str, float]]:
    """Compares one source with the same episodes cut into `count` sources.

    Both loaders live in this process and are timed by turns, so that the load of the machine is
    the same.

    Returns:
      One row of columns: CPU microseconds per frame of each, the median difference, its error.
    """
    meter = measure.Meter()
    opened = {"one": _slices(root, 1), "many": _slices(root, count)}
    batches = {
        name: _loader(each, _encoder(each), AUGMENTED, prefetch=1) for name, each in opened.items()
    }
    spent: dict[str, list[float]] = {name: [] for name in batches}
    for name in (*batches, *batches):
        measure.window(batches[name], _rows, meter, 1.0)
    for k in range(_ROUNDS):
        for name in list(batches)[:: 1 if k % 2 else -1]:
            cpu, _ = measure.window(batches[name], _rows, meter, seconds / _ROUNDS)
            spent[name].append(1e6 * cpu)
    differences = np.subtract(spent["many"], spent["one"])
    one, many = (float(np.median(values)) for values in spent.values())
    error = 1.25 * float(np.std(differences)) / _ROUNDS**0.5  # of a median
    return [
        {
            "one, CPU us/frame": one,
            f"{count}, CPU us/frame": many,
            "more": float(np.median(differences)),
            "standard error": error,
        }
    ]


def checks(root: pathlib.Path, *, seconds: float) -> list[dict[str, float]]:
    """Compares batches whose images are held against their checksums with batches as they are.

    One loader is timed by turns, with and without.

    Returns:
      One row of columns: CPU microseconds per frame of each, the ratio, its error.
    """
    meter = measure.Meter()
    opened = _open(root)
    batches = _loader(opened, _encoder(opened), AugmentConfig(), prefetch=1)
    spent: dict[bool, list[float]] = {True: [], False: []}
    measure.window(batches, _rows, meter, 2.0)
    for k in range(_ROUNDS):
        for checked in (True, False) if k % 2 else (False, True):
            with contextlib.nullcontext() if checked else _unchecked():
                next(batches)  # was made before, in part
                cpu, _ = measure.window(batches, _rows, meter, seconds / _ROUNDS)
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
        made = indexing.build(dataset.directory(root), "train", _wanted(dataset), cache_dir=cache)
        indexed = time.process_time() - cpu, time.perf_counter() - wall, _bytes(cache)
        _episodes(made, dataset)
        return _Made(len(made), *indexed, time.process_time() - cpu, _bytes(cache))
    finally:
        shutil.rmtree(cache)


def _bytes(folder: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _wanted(dataset: Dataset) -> indexing.Wanted:
    robot = dataset.robot
    return indexing.Wanted(
        images=tuple(robot.images.values()), arrays=robot.arrays, texts=robot.instruction
    )


def _index(root: pathlib.Path, dataset: Dataset) -> FrameIndex:
    return indexing.ensure(dataset.directory(root), "train", _wanted(dataset))


def _episodes(
    index: FrameIndex,
    dataset: Dataset,
    *,
    name: str | None = None,
    episodes: range | None = None,
    blocks: BlocksConfig | None = None,
) -> Episodes:
    return Episodes(
        index,
        dataset.robot,
        name=name,
        part="all",
        chunk=CHUNK,
        episodes=episodes,
        blocks=blocks,
    )


def _open(root: pathlib.Path, blocks: BlocksConfig | None = None) -> tuple[Episodes, ...]:
    return tuple(_episodes(_index(root, each), each, blocks=blocks) for each in DATASETS)


def _slices(root: pathlib.Path, count: int) -> tuple[Episodes, ...]:
    """Cuts LIBERO's episodes into sources of about the same size."""
    edges = np.linspace(0, LIBERO.episodes, count + 1).astype(int).tolist()
    opened = _index(root, LIBERO)
    return tuple(
        _episodes(opened, LIBERO, name=f"slice_{k:02d}", episodes=range(*edge))
        for k, edge in enumerate(itertools.pairwise(edges))
    )


def _encoder(opened: Sequence[Episodes]) -> Encoder:
    prompts = PromptsConfig()
    texts = {prompts.for_robot(text) for source in opened for text in source.texts()}
    tokenizer = Tokenizer.train(texts, 1024, _BINS)
    tokenizer, ids = action_tokens.choose_ids(action_tokens.ActionTokensConfig(), tokenizer, _BINS)
    actions = {
        source.name: action_tokens.ActionTokens(source.spec, source.statistics(), ids)
        for source in opened
    }
    layout = SequenceConfig(prefix=48, suffix=CHUNK * 7 + 1)
    return Encoder(tokenizer, actions, prompts, layout, chunk=CHUNK)


def _loader(
    opened: Sequence[Episodes], encoder: Encoder, augment: AugmentConfig, *, prefetch: int = 2
) -> loader.Loader:
    weights = {source.name: RobotConfig(weight=1.0) for source in opened}
    mixture = MixtureConfig(name=None, robots=weights, web={}, robot_share=1.0, weights="absolute")
    config = loader.LoaderConfig(
        batch_size=BATCH,
        threads=_THREADS,
        prefetch=prefetch,
        chunk=CHUNK,
        augment=augment,
    )
    return loader.Loader(opened, mixture, encoder, config, image_size=SIDE, seed=0)


def _rows(batch: Batch) -> int:
    return len(batch.images)


def _distinct(root: pathlib.Path, encoder: Encoder, *, blocks: bool) -> float:
    watched = [_Watched(source) for source in _open(root, BlocksConfig() if blocks else None)]
    batches = _loader(watched, encoder, AugmentConfig())
    for _ in range(_COUNTED):
        next(batches)
    # Each batch asks each source once.
    pairs = zip(*(source.asked[:_COUNTED] for source in watched), strict=True)
    lengths = {dataset.name: dataset.lengths() for dataset in DATASETS}
    return measure.distinct([list(itertools.chain(*pair)) for pair in pairs], lengths)


class _Watched(Episodes):
    """A source that notes the episodes it is asked for."""

    def __init__(self, source: Episodes):
        self.__dict__.update(vars(source))
        self.asked: list[list[tuple[str, str]]] = []

    def shuffle(self, start: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        numbers, epochs = super().shuffle(start, count, seed)
        places = [self.place(i).rpartition(" step ")[0] for i in numbers.tolist()]
        self.asked.append([(self.name, place) for place in places])
        return numbers, epochs
