"""HDF5 demonstrations: groups `data/demo_0`, `data/demo_1`, ... in one file or many.

LIBERO, robomimic and their relatives share this layout; what is in a group differs.

Source: ARISE-Initiative/robomimic, docs/datasets/overview.md.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_jax.core import packages
from vla_jax.core.errors import UserError, nearest
from vla_jax.data.ingest.options import Options, Orientation, orient

_SUFFIXES = (".hdf5", ".h5")
_FRAMES_PER_READ = 64  # the pixels of a whole episode may be gigabytes


class Demonstrations:
    """The demonstrations of a file, or of all files below a folder, in natural order."""

    def __init__(self, source: Path, options: Options, purpose: str):
        """Lists them.

        Args:
          source: a file or a folder.
          options: how to read.
          purpose: who reads, for the message that h5py is missing.

        Raises:
          UserError: h5py is missing, a file is damaged, there are no demonstrations.
        """
        self._h5py = packages.load("h5py", purpose)
        self._options = options
        self._places = [(path, name) for path in _files(source) for name in self._names(path)]
        if not self._places:
            raise UserError(
                f"{source}: no demonstrations", expected="groups data/demo_0, ...", found="none"
            )

    def __len__(self) -> int:
        """Number of demonstrations."""
        return len(self._places)

    @contextlib.contextmanager
    def open(self, i: int) -> Iterator["Demonstration"]:
        """Opens demonstration `i`; what HDF5 finds damaged inside the block names the file."""
        path, name = self._places[i]
        with self._opened(path, f"{path} {name}") as file:
            yield Demonstration(file["data"], name, path, self._options)

    def _names(self, path: Path) -> list[str]:
        with self._opened(path, str(path)) as file:
            names = file["data"].keys() if "data" in file else ()
            return sorted((name for name in names if name.startswith("demo")), key=_natural)

    @contextlib.contextmanager
    def _opened(self, path: Path, place: str) -> Iterator[Any]:
        try:
            with self._h5py.File(path, "r") as file:
                yield file
        # HDF5's own errors come as either, a missing object as KeyError.
        except (OSError, RuntimeError, KeyError) as error:
            raise UserError(
                f"{place}: HDF5 cannot read it ({error})", fix="Fetch or write the file again"
            ) from error


class Demonstration:
    """One open group `data/demo_N`.

    Attributes:
      place: file and group, for messages.
      path: the file.
      holders: the group, `data` and the file: where attributes may lie, nearest first.
    """

    def __init__(self, data: Any, name: str, path: Path, options: Options):
        """Wraps the open group `name` of the group `data`."""
        self.place = f"{path} {name}"
        self.path = path
        self.holders = (data[name], data, data.parent)
        self._options = options

    def members(self, group: str) -> dict[str, Any]:
        """Returns the datasets of a group in it, by name, sorted."""
        found = self._member(group)
        return {name: found[name] for name in sorted(found)}

    def has(self, name: str) -> bool:
        """Whether it has a dataset."""
        return name in self.holders[0]

    def read(self, name: str) -> np.ndarray:
        """Reads numbers, [t, ...]; floats as float32.

        Raises:
          UserError: no such dataset, or not numbers.
        """
        values = self._member(name)[()]
        if values.dtype.kind not in "fiub":
            raise UserError(f"{self.place}: {name}", expected="numbers", found=values.dtype)
        with np.errstate(over="ignore"):  # what is too large becomes inf, which the checks name
            return values.astype(np.float32) if values.dtype.kind == "f" else values

    def join(self, names: Sequence[str]) -> np.ndarray:
        """Reads vectors of one length side by side, [t, a]."""
        parts = [self.read(name) for name in names]
        lengths = [len(part) for part in parts]
        if len(set(lengths)) > 1:
            raise UserError(
                f"{self.place}: {', '.join(names)}", expected="one length", found=lengths
            )
        # Not -1: of an empty episode, which is told later, that size is unknown.
        flat = [part.reshape(len(part), math.prod(part.shape[1:])) for part in parts]
        return np.concatenate(flat, axis=1)

    def encode(self, name: str, orientation: Orientation) -> list[bytes]:
        """Reads pixels, uint8 [t, y, x, 3], turns them upright and encodes them.

        Raises:
          UserError: no such dataset, or not RGB.
        """
        pixels = self._member(name)
        if not is_image(pixels):
            raise UserError(
                f"{self.place}: {name}",
                expected="RGB uint8 [steps, rows, columns, 3]",
                found=f"{pixels.dtype} {list(pixels.shape)}",
            )
        return [
            self._options.encoder(orient(frame, orientation))
            for start in range(0, len(pixels), _FRAMES_PER_READ)
            for frame in pixels[start : start + _FRAMES_PER_READ]
        ]

    def reward(self) -> dict[str, np.ndarray]:
        """Reads `rewards` as the feature `reward`, where there are any."""
        return {"reward": self.read("rewards").astype(np.float32)} if self.has("rewards") else {}

    def terminal(self) -> bool:
        """Whether the task ended; without `dones` it did, as demonstrations do."""
        done = self.read("dones") if self.has("dones") else np.ones(1)
        return bool(done[-1]) if len(done) else True

    def attribute(self, name: str) -> Any:
        """Returns the nearest attribute of that name, parsed as JSON; None without.

        Raises:
          UserError: it is not JSON in UTF-8.
        """
        for holder in self.holders:
            if name in holder.attrs:
                value = holder.attrs[name]
                try:
                    return json.loads(value)
                except ValueError as error:  # also UnicodeDecodeError
                    raise UserError(
                        f"{self.place}: attribute {name}", expected="JSON in UTF-8", found=error
                    ) from error
        return None

    def _member(self, name: str) -> Any:
        group = self.holders[0]
        if name not in group:
            folder, _, _ = name.rpartition("/")
            beside = [f"{folder}/{key}" if folder else key for key in group.get(folder or "/", {})]
            raise UserError(
                f"{self.place}: no {name}",
                expected=f"one of {', '.join(beside)}" if beside else None,
                fix=nearest(name, beside),
            )
        return group[name]


def is_image(dataset: Any) -> bool:
    """Whether a dataset is RGB pixels, uint8 [t, y, x, 3]."""
    return dataset.dtype == np.uint8 and dataset.ndim == 4 and dataset.shape[-1] == 3


def is_vector(dataset: Any) -> bool:
    """Whether a dataset is a number or a vector of numbers per step."""
    return dataset.dtype.kind in "fiub" and dataset.ndim in (1, 2)


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        found = [path for path in source.rglob("*") if path.suffix in _SUFFIXES]
        return sorted(found, key=lambda path: _natural(str(path)))
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    return [source]


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorts `demo_2` before `demo_10`."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
