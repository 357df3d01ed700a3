"""Where every frame of a TFRecord dataset lies: offsets of its images, its numbers in arrays.

The original files stay as they are; one `pread` is one image. The index is built in memory when
the dataset is opened, in one pass that decodes nothing.
"""

import mmap
import os
import pathlib
from typing import BinaryIO

import numpy as np

from vla_jax.core.arrays import Int
from vla_jax.core.errors import UserError
from vla_jax.data import tfrecord


class FrameIndex:
    """The steps of all episodes of one split, in file order.

    A feature `steps/...` has one value per step; any other has one per episode and is repeated.
    A dataset without `steps` (web questions) is read as episodes of one step.

    Args:
      directory: a TFDS version directory.
      split: the split to read.
      images: names of the image features to index.
      arrays: names of float or integer features.
      texts: names of text features.

    Raises:
      UserError: no shards, a damaged shard, or a feature that the records do not have.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        split: str,
        *,
        images: tuple[str, ...],
        arrays: tuple[str, ...] = (),
        texts: tuple[str, ...] = (),
    ):
        self.directory = pathlib.Path(directory)
        self._files = tfrecord.shards(self.directory, split)
        self._descriptors = [os.open(path, os.O_RDONLY) for path in self._files]
        self._wanted = {"image": images, "array": arrays, "text": texts}
        lengths: list[int] = []
        shard: list[int] = []
        columns: dict[str, list] = {name: [] for name in (*images, *arrays, *texts)}
        for number, path in enumerate(self._files):
            with path.open("rb") as file, _map(file) as buffer:
                for start, end in tfrecord.records(buffer, path.name):
                    lengths.append(self._read(buffer, start, end, path.name, columns))
                    shard.append(number)
        self.episode: Int[np.ndarray, " i"] = np.repeat(np.arange(len(lengths)), lengths)
        self.t: Int[np.ndarray, " i"] = np.concatenate([np.arange(n) for n in lengths])
        self._shard = np.repeat(shard, lengths)
        self._columns = {name: np.concatenate(columns[name]) for name in (*images, *arrays)}
        self._texts = {name: [text for part in columns[name] for text in part] for name in texts}

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.t)

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return int(self.episode[-1]) + 1 if len(self) else 0

    def image_bytes(self, camera: str, i: int) -> bytes:
        """Returns the encoded image of frame `i`, exactly as stored."""
        start, end = self._columns[camera][i]
        return os.pread(self._descriptors[self._shard[i]], end - start, start)

    def array(self, name: str) -> np.ndarray:
        """Returns a numeric feature of all frames, [i, ...]."""
        return self._columns[name]

    def text(self, name: str, i: int) -> str:
        """Returns a text feature of frame `i`."""
        return self._texts[name][i]

    def _read(self, buffer: mmap.mmap, start: int, end: int, file: str, columns: dict) -> int:
        """Appends one record to the columns; returns its number of steps."""
        try:
            found = tfrecord.features(buffer, start, end)
            parts = {
                name: _values(buffer, *self._feature(found, name, file), name, role)
                for role, names in self._wanted.items()
                for name in names
            }
            steps = len(parts[self._wanted["image"][0]])
            parts = {name: _per_step(values, name, steps) for name, values in parts.items()}
        except (ValueError, IndexError) as error:
            raise UserError(f"shard {self.directory / file}, byte {start}: {error}") from error
        for name, values in parts.items():
            columns[name].append(values)
        return steps

    def _feature(self, found: dict, name: str, file: str) -> tuple[int, int, int]:
        if name not in found:
            raise UserError(
                f"dataset {self.directory}, shard {file}: no feature {name!r}",
                expected=f"one of {', '.join(sorted(found))}",
                fix="Name the right feature in the dataset's adapter (vla_jax/data/robots)",
            )
        return found[name]


def _values(
    buffer: mmap.mmap, kind: int, start: int, end: int, name: str, role: str
) -> np.ndarray | list[str]:
    """Reads one value list: image spans [n, 2], numbers [n], or texts."""
    if (kind == tfrecord.BYTES) != (role != "array"):
        raise ValueError(f"feature {name!r} is no {role}")
    if kind == tfrecord.FLOAT:
        return tfrecord.floats(buffer, start, end)
    if kind == tfrecord.INT:
        return tfrecord.integers(buffer, start, end)
    spans = tfrecord.spans(buffer, start, end)
    if role == "text":
        return [buffer[first:last].decode() for first, last in spans]
    return np.asarray(spans, np.int64).reshape(-1, 2)


def _per_step(values: np.ndarray | list[str], name: str, steps: int) -> np.ndarray | list[str]:
    """Returns one row or text per step; what an episode has once is repeated."""
    rows = steps if name.startswith("steps/") else 1
    is_flat = isinstance(values, np.ndarray) and values.ndim == 1  # vectors, one after the other
    fits = rows and (len(values) % rows == 0 if is_flat else len(values) == rows)
    if not len(values) or not fits:
        raise ValueError(f"feature {name!r} has {len(values)} values for {steps} steps")
    if isinstance(values, list):
        return values * (steps // rows)
    return np.tile(values.reshape(rows, -1), (steps // rows, 1))


def _map(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
