"""This package's loader on the two datasets, and the floor: decoding and resizing alone."""

import concurrent.futures
import dataclasses
import itertools
import pathlib
import time
from collections.abc import Iterator

import cv2
import numpy as np
import simplejpeg

from loading import measure, opened
from loading.datasets import DATASETS
from loading.measure import BATCH, SIDE, Measured
from vla_jax.core.batch import Batch
from vla_jax.data.augment import AugmentConfig
from vla_jax.data.blocks import BlocksConfig
from vla_jax.data.episodes import Episodes
from vla_jax.tokens.encoder import Encoder

# What Octo trains its primary camera with.
AUGMENTED = AugmentConfig(crop=0.8, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.05)
VARIANTS = {
    "none": AugmentConfig(),
    "crop and colour": AUGMENTED,
    "crop, colour on the device": dataclasses.replace(AUGMENTED, on_device=True),
}
_COUNTED = 40  # batches whose episodes are counted
_SAMPLE = 512  # images that the floor decodes
_ROUNDS = 12  # of one source and many, by turns


def prepare(root: pathlib.Path) -> None:
    """Makes the indexes and what is kept beside them, where they are not yet there."""
    opened.sources(root)
    opened.slices(root, 25)


def floor(root: pathlib.Path, threads: int, seconds: float = 2.0) -> float:
    """Returns CPU milliseconds per frame of decoding and resizing in threads of this process.

    Half of the images are of each dataset, drawn at random; their bytes are in memory. Busy cores
    slow each other down, so a loader is compared with a floor of as many threads as it has.
    """
    rng = np.random.default_rng(0)
    images = []
    for dataset in DATASETS:
        index = opened.index(root, dataset)
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
    encoder = opened.encoder(opened.sources(root))

    def open_batches() -> Iterator[Batch]:
        sources = opened.sources(root, BlocksConfig() if blocks else None)
        return opened.loader(sources, encoder, VARIANTS[variant])

    before = floor(root, opened.THREADS)
    measured = measure.run(open_batches, opened.rows, meter, seconds=seconds, warm_up=0)
    after = floor(root, opened.THREADS)
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
    cuts = {"one": opened.slices(root, 1), "many": opened.slices(root, count)}
    batches = {
        name: opened.loader(each, opened.encoder(each), AUGMENTED, prefetch=1)
        for name, each in cuts.items()
    }
    spent: dict[str, list[float]] = {name: [] for name in batches}
    for name in (*batches, *batches):
        measure.window(batches[name], opened.rows, meter, 1.0)
    for k in range(_ROUNDS):
        for name in list(batches)[:: 1 if k % 2 else -1]:
            cpu, _ = measure.window(batches[name], opened.rows, meter, seconds / _ROUNDS)
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


def _distinct(root: pathlib.Path, encoder: Encoder, *, blocks: bool) -> float:
    watched = [
        _Watched(source) for source in opened.sources(root, BlocksConfig() if blocks else None)
    ]
    batches = opened.loader(watched, encoder, AugmentConfig())
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
