"""Two RLDS datasets in real OXE schemas, generated once: RT-1's kitchens and one LIBERO suite.

The pictures are the tabletop's, with the texture and the sensor noise that give JPEGs of quality 95
the sizes of the real ones. In all other features there are random numbers in the ranges of the
schema, but for one dimension of the action: it is constant in an episode and different in every
other, so that a batch of any loader tells how many episodes it was drawn from.
"""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import simplejpeg

from vla_jax.core.errors import UserError
from vla_jax.data import records
from vla_jax.data.robots import table
from vla_jax.data.robots.robot import Robot
from vla_jax.envs.tabletop import expert, render, scene
from vla_jax.runtime.progress import Progress

MARKED = 5  # dimension of the standard action that tells episodes apart
_QUALITY = 95
_NOISE = 2.2  # standard deviation of the sensor noise, 0..255
_TEXTURE = 8.0  # of the texture of the table
_SHIFTS = 32  # the noise of a picture is cut at random from one of a few larger fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset to generate.

    Attributes:
      name: of the dataset, as its adapter is called.
      version: of the TFDS dataset.
      episodes: how many.
      steps: fewest and most steps of an episode.
      shape: rows and columns of its pictures.
      instruction: feature that holds the instruction.
      marked: the feature and its dimension that is constant in an episode.
      per_shard: episodes in a shard.
    """

    name: str
    version: str
    episodes: int
    steps: tuple[int, int]
    shape: tuple[int, int]
    instruction: str
    marked: tuple[str, int]
    per_shard: int

    @property
    def robot(self) -> Robot:
        """Its adapter."""
        return table.find(self.name)

    def directory(self, root: pathlib.Path) -> pathlib.Path:
        """Returns its version directory under `root`, where TFDS looks for it."""
        return root / self.name / self.version

    def lengths(self) -> np.ndarray:
        """Returns the steps of each episode, int64 [e]."""
        rng = np.random.default_rng(len(self.name))
        return rng.integers(*self.steps, size=self.episodes, endpoint=True)

    def marks(self) -> np.ndarray:
        """Returns what tells the episodes apart, float32 [e]."""
        return np.linspace(-0.5, 0.5, self.episodes, dtype=np.float32)


FRACTAL = Dataset(
    name="fractal20220817_data",
    version="0.1.0",
    episodes=250,
    steps=(30, 70),
    shape=(256, 320),
    instruction="steps/observation/natural_language_instruction",
    marked=("steps/action/rotation_delta", 2),
    per_shard=25,
)
LIBERO = Dataset(
    name="libero_spatial_no_noops",
    version="1.0.0",
    episodes=275,
    steps=(40, 80),
    shape=(256, 256),
    instruction="steps/language_instruction",
    marked=("steps/action", 5),
    per_shard=20,
)
DATASETS = (FRACTAL, LIBERO)


def ensure(root: pathlib.Path) -> None:
    """Generates the datasets that are not yet under `root`, each whole or not at all."""
    for dataset in DATASETS:
        directory = dataset.directory(root)
        made = dataclasses.asdict(dataset) | {"quality": _QUALITY, "noise": _NOISE}
        recipe = json.dumps(made | {"texture": _TEXTURE}, indent=1)
        if directory.is_dir():
            _check(directory, recipe)
            continue
        generate = _generator()
        schema = generate.read(dataset.name)
        with (
            records.staged(directory) as partial,
            Progress(f"generate {dataset.name}", total=dataset.episodes) as progress,
        ):
            records.write_dataset(
                partial,
                name=dataset.name,
                features=generate.features_of(schema),
                splits={"train": (_episodes(dataset, schema, progress), dataset.episodes)},
                examples_per_shard=dataset.per_shard,
                version=dataset.version,
                description="Made for a benchmark: the schema is real, what is in it is not.",
            )
            (partial / "recipe.json").write_text(recipe)


def size(directory: pathlib.Path) -> int:
    """Returns the bytes of a dataset's shards."""
    return sum(path.stat().st_size for path in directory.glob("*.tfrecord*"))


@functools.cache
def _generator() -> types.ModuleType:
    """Loads the tests' generator of numbers in the schema of a dataset."""
    path = pathlib.Path(__file__).parents[2] / "tests" / "data" / "robots" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for it
    spec.loader.exec_module(module)
    return module


def _check(directory: pathlib.Path, recipe: str) -> None:
    path = directory / "recipe.json"
    if not path.is_file() or path.read_text() != recipe:
        raise UserError(
            f"dataset {directory}",
            expected="the dataset this benchmark generates",
            found="another one",
            fix="Remove it, or name another folder with --data",
        )


def _episodes(
    dataset: Dataset, schema: dict[str, Any], progress: Progress
) -> Iterator[dict[str, Any]]:
    cameras = [name for name, feature in schema.items() if feature.get("image")]
    draw = _generator().draw
    feature, dimension = dataset.marked
    camera = _Camera(dataset.shape)
    pairs = zip(dataset.lengths().tolist(), dataset.marks().tolist(), strict=True)
    for k, (length, mark) in enumerate(pairs):
        rng = np.random.default_rng([len(dataset.name), k])
        world = scene.sample(rng)
        pictures = {name: np.empty(length, object) for name in cameras}
        for t in range(length):
            image = render.render(world, max(dataset.shape))
            for name in cameras:
                pictures[name][t] = camera.encode(image, rng)
            world.step(expert.scene_action(world))
        numbers = draw(dataset.name, lengths=(length,), seed=k)
        marked = numbers.values[feature].copy()
        marked[:, dimension] = mark
        instruction = np.full(length, world.instruction, object)
        given = {**pictures, feature: marked, dataset.instruction: instruction}
        yield from draw(dataset.name, lengths=(length,), seed=k, **given).examples()
        progress.update()


class _Camera:
    """Adds texture and noise to pictures and encodes them."""

    def __init__(self, shape: tuple[int, int]):
        rng = np.random.default_rng(0)
        height, width = self._shape = shape
        coarse = rng.normal(0, _TEXTURE, (64, 64, 3)).astype(np.float32)
        self._texture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        field = (8, height + _SHIFTS, width + _SHIFTS, 3)
        self._noise = rng.normal(0, _NOISE, field).astype(np.float32)

    def encode(self, image: np.ndarray, rng: np.random.Generator) -> bytes:
        """Returns a JPEG of the upper part of an image."""
        height, width = self._shape
        number, y, x = rng.integers((len(self._noise), _SHIFTS, _SHIFTS)).tolist()
        noise = self._noise[number, y : y + height, x : x + width]
        lit = np.clip(image[:height, :width] + self._texture + noise, 0, 255)
        pixels = np.rint(lit).astype(np.uint8)
        return simplejpeg.encode_jpeg(pixels, _QUALITY, "RGB", "420")
