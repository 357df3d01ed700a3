"""Writes the files of a frame index, episode by episode."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vla_jax.actions.statistics import Statistics
from vla_jax.core.errors import UserError
from vla_jax.data import index_files, sealed
from vla_jax.data.episode_walk import Episode
from vla_jax.data.index_files import ArrayFile, TextFiles
from vla_jax.data.steps import Column


class IndexWriter:
    """Writes into an empty folder.

    Args:
      folder: the folder.
      columns: what every episode has.
    """

    def __init__(self, folder: pathlib.Path, columns: Sequence[Column]):
        self._folder, self._columns = folder, columns
        self._episodes = self._frames = 0
        self._content = hashlib.blake2b(digest_size=16)
        self._parts = {
            name: ArrayFile(folder / f"{name}.npy", dtype, shape)
            for name, dtype, shape in (
                ("starts", np.int64, ()),
                ("records", np.int64, (3,)),
                ("episode", np.int32, ()),
                ("t", np.int32, ()),
            )
        }
        self._parts["starts"].append(np.zeros(1, np.int64))
        self._values: dict[Column, ArrayFile | TextFiles] = {
            column: TextFiles(self._path(column), is_list=column.is_list)
            if column.role == "text"
            else ArrayFile(
                index_files.suffixed(self._path(column), ".npy"), column.dtype, column.shape
            )
            for column in columns
        }
        self._sums = {
            column: ArrayFile(
                index_files.suffixed(self._path(column), ".sums.npy"), np.uint32, (2,)
            )
            for column in columns
            if column.role == "image"
        }
        self._files = (*self._parts.values(), *self._values.values(), *self._sums.values())

    def __enter__(self) -> "IndexWriter":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes the files, complete or not."""
        for file in self._files:
            file.close()

    def append(self, episode: Episode) -> None:
        """Appends one episode."""
        for column, rows in episode.rows.items():
            file = self._values[column]
            if isinstance(file, TextFiles):
                assert isinstance(rows, list)
                file.append(rows)
            else:
                file.append(np.asarray(rows))
        for column, sums in episode.sums.items():
            self._sums[column].append(sums)
        steps = episode.steps
        self._frames += steps
        rows = {
            "starts": np.array([self._frames]),
            "records": np.array([[episode.shard, episode.start, episode.length]]),
            "episode": np.full(steps, self._episodes, np.int32),
            "t": np.arange(steps, dtype=np.int32),
        }
        for name, values in rows.items():
            self._parts[name].append(values)
        self._episodes += 1
        self._content.update(episode.crc)

    def finish(self, dataset: str) -> dict[str, Any]:
        """Completes the files and returns what the manifest says of them.

        Args:
          dataset: for messages.

        Raises:
          UserError: there was no episode.
        """
        for file in self._files:
            file.finish()
        if not self._frames:
            raise UserError(f"{dataset}: no records", expected="at least one episode")
        statistics, not_finite = {}, {}
        for column in self._columns:
            path = self._path(column)
            if column.role == "text" and not column.is_list:
                index_files.shorten_constant(index_files.suffixed(path, ".ids.npy"))
            if column.role != "array":
                continue
            path = index_files.suffixed(path, ".npy")
            if column.feature.kind == "float":
                values = sealed.load(path).reshape(self._frames, -1)
                bad = _first_not_finite(values)
                if bad is None:
                    statistics[column.name] = _statistics(values).to_json()
                else:
                    not_finite[column.name] = bad
            index_files.shorten_constant(path)
        return {
            "episodes": self._episodes,
            "frames": self._frames,
            "fingerprint": self._content.hexdigest(),
            "columns": [column.to_json() for column in self._columns],
            "statistics": statistics,
            "not_finite": not_finite,
        }

    def _path(self, column: Column) -> pathlib.Path:
        return self._folder / f"{column.role}s" / column.name


def _statistics(values: np.ndarray) -> Statistics:
    """Computes the statistics of [i, a], one dimension at a time to spare memory."""
    parts = [Statistics.of(values[:, d : d + 1]) for d in range(values.shape[1])]
    names = [field.name for field in dataclasses.fields(Statistics) if field.name != "count"]
    merged = {name: tuple(getattr(part, name)[0] for part in parts) for name in names}
    return Statistics(**merged, count=len(values))


def _first_not_finite(values: np.ndarray) -> tuple[int, int] | None:
    """Returns (frame, dimension) of the first number of [i, a] that is infinite or none."""
    bad = ~np.isfinite(values)
    if not bad.any():
        return None
    frame, dimension = np.unravel_index(np.argmax(bad), bad.shape)
    return int(frame), int(dimension)
