"""What a reader of another format gives: one episode at a time, checked against the first."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from vla_jax.core import paths
from vla_jax.core.errors import UserError
from vla_jax.core.words import is_blank
from vla_jax.data.ingest.encoding import ImageFormat, image_format


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episode:
    """One episode.

    Feature names are those of an RLDS step, with `/` between levels: `action`, `reward`,
    `observation/state`, `observation/image`.

    Attributes:
      place: file and episode, for messages.
      file_path: the file it came from, kept in the metadata.
      images: feature -> the encoded image of each step.
      arrays: feature -> [t, ...].
      instructions: the instruction at each step.
      terminal: whether the last step ended the task, rather than cut it short.
      sizes: image feature -> rows and columns that the metadata say, where they do.
    """

    place: str
    file_path: str
    images: Mapping[str, Sequence[bytes]]
    arrays: Mapping[str, np.ndarray]
    instructions: Sequence[str]
    terminal: bool = True
    sizes: Mapping[str, tuple[int, int] | None] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.arrays["action"])


class Reader(Protocol):
    """A dataset in another format: episodes by number."""

    @property
    def notes(self) -> Sequence[str]:
        """What a person should know about how it is read, in sentences."""
        ...

    @property
    def docs(self) -> Mapping[str, str]:
        """Feature -> what its numbers are, where the format says so."""
        ...

    def __len__(self) -> int:
        """Number of episodes."""
        ...

    def episode(self, i: int) -> Episode:
        """Reads episode `i`.

        Raises:
          UserError: it is damaged or not of this format; names file, episode and step.
        """
        ...


class ArrayFormat(NamedTuple):
    """Dtype and shape of a numeric feature at one step."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


Schema = Mapping[str, ArrayFormat | ImageFormat]


def schema_of(episode: Episode) -> Schema:
    """Reads the format of every feature off an episode's first step."""
    arrays = {
        name: ArrayFormat(str(values.dtype), values.shape[1:])
        for name, values in episode.arrays.items()
    }
    return arrays | {name: _image_format(episode, name, 0) for name in episode.images}


class Checks:
    """Holds every episode to the first: one dataset has one schema."""

    def __init__(self) -> None:
        """Prepares; the first episode that passes sets the schema."""
        self.schema: Schema | None = None

    def __call__(self, episode: Episode) -> Episode:
        """Returns the episode.

        Raises:
          UserError: no steps, features of different lengths, other features, shapes or dtypes
            than the first episode's, a missing or damaged image or one of another size than the
            metadata say, a number that is not finite, a blank instruction, the name of a feature
            that leads out of the dataset.
        """
        _check_lengths(episode)
        schema = schema_of(episode)
        if self.schema is not None:
            _check_schema(episode, schema, self.schema)
        for name in schema:
            paths.below(".", name, f"{episode.place}: the name of a feature")
        for name in episode.images:
            _check_images(episode, name, schema[name])
        for name, values in episode.arrays.items():
            _check_finite(episode, name, values)
        for t, text in enumerate(episode.instructions):
            if is_blank(text):
                raise UserError(
                    f"{episode.place} step {t}: no instruction, found {text[:40]!r}",
                    fix="Give the episodes that have none an instruction (--instruction=...)",
                )
        self.schema = self.schema or schema
        return episode


def checked(episodes: Iterable[Episode]) -> Iterator[Episode]:
    """Yields the episodes; the first that does not pass ends it with its UserError."""
    checks = Checks()
    for episode in episodes:
        yield checks(episode)


def _check_lengths(episode: Episode) -> None:
    if not len(episode):
        raise UserError(f"{episode.place}: no steps", fix="Remove the empty episode")
    features = {**episode.arrays, **episode.images, "the instruction": episode.instructions}
    for name, values in features.items():
        if len(values) != len(episode):
            raise UserError(
                f"{episode.place}: {name} and action differ in length",
                expected=f"{len(episode)} steps, as action",
                found=len(values),
            )


def _check_schema(episode: Episode, found: Schema, expected: Schema) -> None:
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise UserError(
                f"{episode.place}: {name} is not as in the first episode",
                expected=expected.get(name, "no such feature"),
                found=found.get(name, "no such feature"),
                fix="Make all episodes alike, or ingest the two kinds as two datasets",
            )


def _check_images(episode: Episode, name: str, expected: object) -> None:
    size = episode.sizes.get(name)
    if size is not None and isinstance(expected, ImageFormat) and expected[1:] != size:
        raise UserError(
            f"{episode.place}: image {name}",
            expected=f"{size[0]}x{size[1]}, as the metadata say",
            found=expected,
        )
    for t in range(len(episode)):
        found = _image_format(episode, name, t)
        if found != expected:
            raise UserError(
                f"{episode.place} step {t}: image {name}",
                expected=f"{expected}, as at step 0",
                found=found,
            )


def _image_format(episode: Episode, name: str, t: int) -> ImageFormat:
    try:
        return image_format(episode.images[name][t])
    except ValueError as error:
        raise UserError(f"{episode.place} step {t}: image {name}: {error}") from error


def _check_finite(episode: Episode, name: str, values: np.ndarray) -> None:
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    t, *rest = np.argwhere(~np.isfinite(values))[0]
    raise UserError(
        f"{episode.place} step {t}: {name} dimension {list(map(int, rest))}",
        expected="a finite number",
        found=values[(t, *rest)],
        fix="Repair or remove the episode",
    )
