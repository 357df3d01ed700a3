"""Writes episodes as an RLDS dataset that TFDS and the frame index read."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_jax.core.errors import UserError
from vla_jax.data import records
from vla_jax.data.ingest.encoding import ImageFormat
from vla_jax.data.ingest.episode import ArrayFormat, Episode, Schema, schema_of

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

VERSION = "1.0.0"
SPLIT = "train"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """What was written.

    Attributes:
      directory: the TFDS version directory.
      episodes: number of episodes.
      steps: number of steps of all.
      size: bytes of the directory.
    """

    directory: Path
    episodes: int
    steps: int
    size: int


def write(
    episodes: Iterable[Episode],
    directory: Path,
    *,
    name: str,
    description: str | Callable[[], str],
    docs: Mapping[str, str] | None = None,
) -> Written:
    """Writes a version directory; on any failure there is none.

    Args:
      episodes: as they come, having passed the checks; the first is the schema.
      directory: must not exist.
      name: the dataset's name: lower-case letters, digits and _.
      description: one paragraph, stored in the metadata; or what gives it, asked at the end.
      docs: feature -> what its numbers are, stored in the schema.

    Raises:
      UserError: the name is not as TFDS wants it, the directory exists, the disk is full or not
        writable, there are no episodes.
      Exception: whatever the episodes raise, as it is.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{,99}", name):
        raise UserError(
            "name of the dataset",
            expected="up to 100 lower-case letters, digits and _, a letter first",
            found=repr(name[:120]),
        )
    if directory.exists():
        raise UserError(
            f"{directory} is already there",
            fix=f"Choose another name, or delete it: rm -r {directory}",
        )
    counts = {"episodes": 0, "steps": 0}
    with _plain_refusals(directory), records.staged(directory) as partial:
        stream = _marked(episodes)
        first = next(stream, None)
        if first is None:
            raise UserError(f"{name}: no episodes", expected="at least one", found="none")
        records.write_dataset(
            partial,
            name=name,
            features=_features(schema_of(first), docs or {}),
            splits={SPLIT: (_examples(first, stream, counts), None)},
            version=VERSION,
            description=description,
        )
        size = sum(path.stat().st_size for path in partial.iterdir())
    return Written(directory=directory, size=size, **counts)


class _SourceError(Exception):
    """Carries an OSError of reading past those of writing."""

    def __init__(self, error: OSError):
        super().__init__(str(error))
        self.error = error


def _marked(episodes: Iterable[Episode]) -> Iterator[Episode]:
    try:
        yield from episodes
    except OSError as error:
        raise _SourceError(error) from error


@contextlib.contextmanager
def _plain_refusals(directory: Path) -> Iterator[None]:
    try:
        yield
    except _SourceError as wrapped:
        raise wrapped.error from None
    except OSError as error:
        raise UserError(
            f"cannot write dataset {directory}: {error.strerror}",
            fix="Free space, or choose another folder",
        ) from error


def _examples(
    first: Episode, rest: Iterator[Episode], counts: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Yields the first and the other episodes as TFDS wants them, counting."""
    episode: Episode | None = first
    while episode is not None:
        counts["episodes"] += 1
        counts["steps"] += len(episode)
        yield {
            "steps": [_step(episode, t) for t in range(len(episode))],
            "episode_metadata": {"file_path": episode.file_path},
        }
        episode = next(rest, None)


def _step(episode: Episode, t: int) -> dict[str, Any]:
    last = t == len(episode) - 1
    flat = {
        **{name: values[t] for name, values in episode.arrays.items()},
        **{name: frames[t] for name, frames in episode.images.items()},
        "language_instruction": episode.instructions[t],
        "discount": np.float32(1.0),
        "is_first": t == 0,
        "is_last": last,
        "is_terminal": last and episode.terminal,
    }
    return _nested(flat)


def _features(schema: Schema, docs: Mapping[str, str]) -> "tfds.features.FeaturesDict":
    kinds = records.import_tfds().features
    flat = {name: _feature(kinds, form, docs.get(name)) for name, form in schema.items()}
    flat |= {
        "language_instruction": kinds.Text(),
        "discount": np.float32,
        "is_first": np.bool_,
        "is_last": np.bool_,
        "is_terminal": np.bool_,
    }
    return kinds.FeaturesDict(
        {
            "steps": kinds.Dataset(_nested(flat)),
            "episode_metadata": {"file_path": kinds.Text()},
        }
    )


def _feature(kinds: Any, form: ArrayFormat | ImageFormat, doc: str | None) -> Any:
    if isinstance(form, ImageFormat):
        return kinds.Image(
            shape=(form.height, form.width, 3), encoding_format=form.encoding, doc=doc
        )
    return kinds.Tensor(shape=form.shape, dtype=np.dtype(form.dtype), doc=doc)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turns `a/b` into one level per name."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *levels, leaf = name.split("/")
        node = tree
        for level in levels:
            node = node.setdefault(level, {})
        node[leaf] = value
    return tree
