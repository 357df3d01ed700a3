"""Reads LeRobot datasets, format v2 and v3: tables of steps, and films or images.

Source: huggingface/lerobot, docs/source/lerobot-dataset-v3.mdx and
src/lerobot/datasets/dataset_reader.py.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla_jax.core import paths
from vla_jax.core.errors import UserError, listed
from vla_jax.core.words import is_blank
from vla_jax.data.ingest import (
    lerobot_episodes,
    lerobot_info,
    lerobot_statistics,
    lerobot_tasks,
)
from vla_jax.data.ingest.encoding import intact
from vla_jax.data.ingest.episode import Episode
from vla_jax.data.ingest.film import Films
from vla_jax.data.ingest.lerobot_episodes import Entry
from vla_jax.data.ingest.lerobot_info import DONE, REWARD
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
          UserError: a package is missing, the folder is no LeRobot dataset of format v2 or v3, or
            its metadata are damaged or contradict each other.
        """
        source = Path(paths.expand(source))
        self._tables = Tables(_PURPOSE)
        self._root, self._options = source, options
        self._info = info = lerobot_info.read(source)
        self._features = {
            key: form for key, form in info.features.items() if lerobot_info.is_read(key, form)
        }
        self._names = lerobot_info.names(
            self._features, lerobot_info.action_key(info), source / "meta/info.json"
        )
        self._videos, self._images = (
            [key for key, form in self._features.items() if form.dtype == dtype]
            for dtype in ("video", "image")
        )
        self._numeric = [key for key in self._features if key not in (*self._videos, *self._images)]
        self._films = (
            Films(_PURPOSE, fps=info.fps, tolerance=options.tolerance_s) if self._videos else None
        )
        self._tasks = lerobot_tasks.read(source, info, self._tables)
        self._episodes = lerobot_episodes.read(source, info, self._videos, self._tables)
        self._orientation: Orientation = options.orientation_or("as_stored")
        self.docs = {
            self._names[key]: _dimensions(self._features[key].names) for key in self._numeric
        }
        self._overall = self._statistics()
        self.notes = [*self._describe(), *(self._overall.notes if self._overall else ())]

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._episodes)

    def episode(self, i: int) -> Episode:
        """Reads episode `i`; see `Reader`."""
        entry, names = self._episodes[i], self._names
        place = f"{entry.data} episode {entry.number}"
        table = self._tables.rows(entry.data, entry.first, entry.length, entry.rows, place)
        self._check_rows(entry, table, place)
        arrays = {names[key]: self._numbers(entry, table, key, place) for key in self._numeric}
        stored = {names[key]: self._stored(table, key, place) for key in self._images}
        filmed = {names[key]: self._filmed(entry, key, table, place) for key in self._videos}
        return Episode(
            place=place,
            file_path=str(entry.data),
            images=stored | filmed,
            arrays=arrays,
            instructions=self._instructions(entry, table, place),
            terminal=DONE not in self._info.features or self._ended(table, place),
            sizes={names[key]: self._features[key].size for key in (*self._images, *self._videos)},
        )

    def _describe(self) -> list[str]:
        info = self._info
        notes = [f"{info.robot_type or 'robot'} at {info.fps:g} steps per second."]
        if self._videos:
            turned = ORIENTATION_NOTES[self._orientation]
            notes.append(f"Video frames are {turned}, and encoded anew.")
        if self._images:
            notes.append("Images keep their bytes.")
        if (key := lerobot_info.action_key(info)) != "action":
            notes.append(f"Feature {key} is the action.")
        if left_out := lerobot_info.left_out(info):
            notes.append(f"Left out, neither RGB nor numbers: {listed(left_out)}.")
        return notes

    def _statistics(self) -> lerobot_statistics.Overall | None:
        if not self._options.check_statistics:
            return None
        sizes = {key: math.prod(self._features[key].shape) for key in self._numeric}
        steps = sum(entry.length for entry in self._episodes)
        return lerobot_statistics.Overall(self._root, sizes, steps)

    def _check_rows(self, entry: Entry, table: Any, place: str) -> None:
        """Checks that the rows are the episode's own, all of them and in order."""
        rows = f"{place}: rows {entry.first} to {entry.first + entry.length - 1}"
        owners = self._tables.numbers(table, "episode_index", (), place)
        if (owners != entry.number).any():
            raise UserError(
                rows,
                expected=f"steps of episode {entry.number}",
                found=f"steps of episodes [{listed(sorted(set(owners.tolist())))}]",
                fix="meta/episodes and data contradict each other: fetch the dataset again",
            )
        counts = {"frame_index": 0}
        if entry.start is not None:
            counts["index"] = entry.start
        for key, start in counts.items():
            if key not in table.column_names:
                continue
            found = self._tables.numbers(table, key, (), place)
            wrong = found != start + np.arange(entry.length)
            if wrong.any():
                t = int(np.argmax(wrong))
                raise UserError(
                    f"{place} step {t}: {key}",
                    expected=start + t,
                    found=found[t],
                    fix="Steps are missing, doubled or out of order: fetch the file again",
                )

    def _numbers(self, entry: Entry, table: Any, key: str, place: str) -> np.ndarray:
        form = self._features[key]
        shape = () if key == REWARD else tuple(form.shape)
        values = self._tables.numbers(table, key, shape, place, form.dtype)
        if self._options.check_statistics and (said := entry.statistics.get(key)):
            lerobot_statistics.check(values, said, f"{place}: {key}")
        if self._overall is not None:
            self._overall.compare(key, values, place)
        return values

    def _stored(self, table: Any, key: str, place: str) -> list[bytes]:
        """Returns images as they are in the table, or in the files that it names."""
        found = []
        for t, cell in enumerate(self._tables.column(table, key, place).to_pylist()):
            what = f"{key} of {place} step {t}"
            if not isinstance(cell, Mapping | bytes):
                raise UserError(f"image {what}", expected="bytes and path", found=repr(cell)[:80])
            data = cell if isinstance(cell, bytes) else self._image(cell, what)
            found.append(intact(data, what))
        return found

    def _image(self, cell: Mapping[str, Any], what: str) -> bytes | None:
        data, name = cell.get("bytes"), cell.get("path")
        if isinstance(data, bytes) or not name:
            return data
        path = paths.below(self._root, str(name), f"image {what}: its path")
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"image {what}: {path}: {error.strerror}") from error

    def _filmed(self, entry: Entry, key: str, table: Any, place: str) -> list[bytes]:
        """Decodes an episode's frames and encodes each as it comes."""
        assert self._films is not None
        times = self._tables.numbers(table, "timestamp", (), place).astype(np.float64)
        self._check_times(times, place)
        frames = self._films.frames(entry.films[key], times, f"{key} of {place}")
        return [self._options.encoder(orient(frame, self._orientation)) for frame in frames]

    def _check_times(self, times: np.ndarray, place: str) -> None:
        """Checks that the steps of an episode are as far apart as the rate says."""
        expected = np.arange(len(times)) / self._info.fps
        # Not >: a NaN is off, too.
        off = ~(np.abs(times - expected) < 0.5 / self._info.fps)
        if off.any():
            t = int(np.argmax(off))
            raise UserError(
                f"{place} step {t}: timestamp",
                expected=f"{expected[t]:.4f} s, at {self._info.fps:g} steps per second",
                found=f"{times[t]:.4f} s",
                fix="meta/info.json and data contradict each other: fetch the dataset again",
            )

    def _instructions(self, entry: Entry, table: Any, place: str) -> list[str]:
        found = []
        for t, task in enumerate(self._tables.numbers(table, "task_index", (), place).tolist()):
            if task not in self._tasks:
                raise UserError(
                    f"{place} step {t}: task {task} is not in the table of tasks of meta",
                    expected=f"one of [{listed(sorted(self._tasks))}]",
                )
            text = self._tasks[task]
            if entry.tasks is not None and text not in entry.tasks:
                raise UserError(
                    f"{place} step {t}: task {task} is {text!r}",
                    expected=f"one of those that meta/episodes names: {listed(entry.tasks, 3)}",
                    fix="meta and data contradict each other: fetch the dataset again",
                )
            found.append(self._options.instruction or text if is_blank(text) else text)
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
