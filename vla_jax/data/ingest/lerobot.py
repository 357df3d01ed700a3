"""Reads LeRobot datasets of format v3: tables of steps, and videos or images of many episodes.

Source: huggingface/lerobot, docs/source/lerobot-dataset-v3.mdx and
src/lerobot/datasets/dataset_reader.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla_jax.core import packages
from vla_jax.core.errors import UserError
from vla_jax.data.ingest import video
from vla_jax.data.ingest.encoding import intact
from vla_jax.data.ingest.episode import Episode
from vla_jax.data.ingest.lerobot_metadata import DONE, REWARD, Metadata
from vla_jax.data.ingest.options import ORIENTATION_NOTES, Options, Orientation, orient
from vla_jax.data.ingest.parquet import Tables

_PURPOSE = "--format=lerobot"


class LeRobot:
    """A `Reader` of a LeRobot folder.

    Attributes:
      notes: how it is read.
      docs: the names of the dimensions of each numeric feature.
    """

    def __init__(self, source: Path, options: Options):
        """Reads the metadata.

        Args:
          source: the folder that holds `meta`, `data` and `videos`.
          options: how to read.

        Raises:
          UserError: a package is missing, the folder is no LeRobot dataset of format v3, or its
            metadata are damaged.
        """
        self._tables = Tables(_PURPOSE)
        self._meta = Metadata(source, self._tables)
        self._videos = self._meta.keys("video")
        self._images = self._meta.keys("image")
        self._av = packages.load("av", _PURPOSE) if self._videos else None
        self._options = options
        self._orientation: Orientation = options.orientation_or("as_stored")
        self.docs = {
            self._meta.names[key]: _dimensions(form.get("names"))
            for key, form in self._meta.features.items()
            if key not in (*self._videos, *self._images)
        }
        self.notes = self._describe()

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._meta.episodes)

    def episode(self, i: int) -> Episode:
        """Reads episode `i`; see `Reader`."""
        row, names = self._meta.episodes[i], self._meta.names
        path = self._meta.data_path(row)
        place = f"{path} episode {row['episode_index']}"
        table = self._table(row, path, place)
        arrays = {
            name: self._tables.numbers(table, key, self._shape(key), place)
            for key, name in names.items()
            if key not in self._videos and key not in self._images
        }
        stored = {names[key]: self._stored(table, key, place) for key in self._images}
        filmed = {names[key]: self._filmed(row, key, table, place) for key in self._videos}
        return Episode(
            place=place,
            file_path=str(path),
            images=stored | filmed,
            arrays=arrays,
            instructions=self._instructions(table, place),
            terminal=not self._meta.ends or self._ended(table, place),
        )

    def _describe(self) -> list[str]:
        notes = [f"{self._meta.robot or 'robot'} at {self._meta.fps:g} steps per second."]
        if self._videos:
            turned = ORIENTATION_NOTES[self._orientation]
            notes.append(f"Video frames are {turned}, and encoded anew.")
        if self._images:
            notes.append("Images keep their bytes.")
        if self._meta.left_out:
            left_out = ", ".join(self._meta.left_out)
            notes.append(f"Left out, neither RGB nor numbers: {left_out}.")
        return notes

    def _shape(self, key: str) -> tuple[int, ...]:
        return () if key == REWARD else tuple(self._meta.features[key]["shape"])

    def _table(self, row: Mapping[str, Any], path: Path, place: str) -> Any:
        """Reads an episode's rows, having checked that they are its own."""
        first = row["dataset_from_index"] - row["first_of_file"]
        table = self._tables.rows(path, first, row["length"], place)
        owners = self._tables.numbers(table, "episode_index", (), place)
        if (owners != row["episode_index"]).any():
            raise UserError(
                f"{place}: rows {first} to {first + row['length'] - 1}",
                expected=f"steps of episode {row['episode_index']}",
                found=f"steps of episodes {sorted(set(owners.tolist()))}",
                fix="meta/episodes and data contradict each other: fetch the dataset again",
            )
        return table

    def _stored(self, table: Any, key: str, place: str) -> list[bytes]:
        """Returns images as they are in the table, or in the files that it names."""
        found = []
        for t, cell in enumerate(table.column(key).to_pylist()):
            data, name = (cell or {}).get("bytes"), (cell or {}).get("path")
            if data is None and name and (self._meta.root / name).is_file():
                data = (self._meta.root / name).read_bytes()
            found.append(intact(data, f"{key} of {place} step {t}"))
        return found

    def _filmed(self, row: Mapping[str, Any], key: str, table: Any, place: str) -> list[bytes]:
        """Decodes an episode's frames and encodes each as it comes."""
        times = self._tables.numbers(table, "timestamp", (), place).astype(np.float64)
        frames = video.frames(
            self._av,
            self._meta.video_path(row, key),
            times + row[f"videos/{key}/from_timestamp"],
            tolerance=0.5 / self._meta.fps,
            place=f"{key} of {place}",
        )
        return [self._options.encoder(orient(frame, self._orientation)) for frame in frames]

    def _instructions(self, table: Any, place: str) -> list[str]:
        found = []
        for t, task in enumerate(self._tables.numbers(table, "task_index", (), place).tolist()):
            if task not in self._meta.tasks:
                raise UserError(
                    f"{place} step {t}: task {task} is not in meta/tasks.parquet",
                    expected=f"one of {sorted(self._meta.tasks)}",
                )
            found.append(self._meta.tasks[task] or self._options.instruction)
        return found

    def _ended(self, table: Any, place: str) -> bool:
        done = self._tables.numbers(table, DONE, (), place)
        return bool(len(done) and done[-1])


def _dimensions(names: Any) -> str:
    """Spells the names of a feature's dimensions, however deeply a dataset nests them."""
    if isinstance(names, Mapping):
        return ", ".join(_dimensions(inner) for inner in names.values())
    if isinstance(names, list | tuple):
        return ", ".join(map(str, names))
    return "" if names is None else str(names)
