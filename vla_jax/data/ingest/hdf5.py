"""HDF5 demonstrations: groups `data/demo_0`, `data/demo_1`, ... in one file or many.

LIBERO, robomimic and their relatives share this layout; what is in a group differs. Checksums
(the filter fletcher32) are verified by the library where the writer wrote them, and so is what is
compressed; LIBERO's own files have neither, and a number that changes in them is not noticed.

Source: ARISE-Initiative/robomimic, docs/datasets/overview.md.
"""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_jax.core import json_file, packages, paths
from vla_jax.core.errors import UserError, listed
from vla_jax.data.ingest.encoding import check_size
from vla_jax.data.ingest.hdf5_group import AGAIN, Group, reading
from vla_jax.data.ingest.options import Options, Orientation, orient

_SUFFIXES = (".hdf5", ".h5")
_FRAMES_PER_READ = 64  # the pixels of a whole episode may be gigabytes
_PER_STEP = ("actions", "rewards", "dones", "states")  # have one row per step, read or not


class Demonstrations:
    """The demonstrations of a file, or of all files below a folder, in natural order.

    A file that cannot be read counts as one demonstration, which cannot be read either. Such come
    first, so that they are told before anything is written.

    Attributes:
      counts: what attributes of files say that is not so: worth knowing, no damage.
    """

    def __init__(self, source: Path, options: Options, purpose: str):
        """Lists them.

        Args:
          source: a file or a folder.
          options: how to read.
          purpose: who reads, for the message that h5py is missing.

        Raises:
          UserError: h5py is missing, no file can be read, there are no demonstrations.
        """
        self._h5py = packages.load("h5py", purpose)
        self._options = options
        self.counts: list[str] = []
        self._damaged: list[UserError] = []
        self._places: list[tuple[Path, str]] = []
        for path in _files(Path(paths.expand(source))):
            try:
                self._places += [(path, name) for name in self._names(path)]
            except UserError as error:
                self._damaged.append(error)
        if not self._places and self._damaged:
            raise self._damaged[0]
        if not self._places:
            raise UserError(
                f"{source}: no demonstrations", expected="groups data/demo_0, ...", found="none"
            )

    def __len__(self) -> int:
        """Number of demonstrations, and of files that cannot be read."""
        return len(self._damaged) + len(self._places)

    @contextlib.contextmanager
    def open(self, i: int) -> Iterator["Demonstration"]:
        """Opens demonstration `i`.

        Raises:
          UserError: it, or its file, is damaged.
        """
        if i < len(self._damaged):
            raise self._damaged[i]
        path, name = self._places[i - len(self._damaged)]
        with self._opened(path) as file:
            yield Demonstration(file, name, path, self._options)

    def first(self) -> contextlib.AbstractContextManager["Demonstration"]:
        """Opens the first demonstration whose file can be read."""
        return self.open(len(self._damaged))

    def _names(self, path: Path) -> list[str]:
        with self._opened(path) as file:
            data = Group(file, str(path))
            if not data.has("data"):
                return []
            group = data.group("data")
            names = [name for name in group.names() if name.startswith("demo")]
            if others := [name for name in group.names() if name not in names]:
                self.counts.append(f"{path}: left out, not called demo_N: {listed(others)}.")
            said = group.attribute("num_demos")
            if isinstance(said, int) and said != len(names):
                self.counts.append(f"{path} says num_demos={said} and has {len(names)}.")
            return sorted(names, key=_natural)

    @contextlib.contextmanager
    def _opened(self, path: Path) -> Iterator[Any]:
        with reading(str(path)):
            file = self._h5py.File(path, "r")
        try:
            yield file
        finally:
            with contextlib.suppress(Exception):  # of a damaged file; what counts is told already
                file.close()


class Demonstration:
    """One open group `data/demo_N`.

    Attributes:
      place: file and group, for messages.
      path: the file.
    """

    def __init__(self, file: Any, name: str, path: Path, options: Options):
        """Looks into the group `name` of the group `data`, and compares its lengths.

        Raises:
          UserError: they differ, or it is no group.
        """
        self.path, self._options = path, options
        whole = Group(file, str(path))
        data = whole.group("data")
        self._group = data.group(name, f"{path} {name}")
        self._holders = (self._group, data, whole)  # where attributes may lie, nearest first
        self.place = self._group.place
        self._check_lengths()

    def members(self, group: str) -> dict[str, Any]:
        """Returns the datasets of a group in it, by name, sorted; groups in it are left out."""
        node = self._group.group(group)
        found = {name: node.member(name) for name in node.names()}
        return {
            name: self._group.dataset(f"{group}/{name}")
            for name, member in found.items()
            if hasattr(member, "dtype")
        }

    def groups(self, group: str) -> list[str]:
        """Returns the names of the groups in a group in it, sorted."""
        node = self._group.group(group)
        return [name for name in node.names() if not hasattr(node.member(name), "dtype")]

    def has(self, name: str) -> bool:
        """Whether it has a dataset."""
        folder, _, leaf = name.rpartition("/")
        return (self._group.group(folder) if folder else self._group).has(leaf)

    def read(self, name: str) -> np.ndarray:
        """Reads numbers, [t, ...]; floats as float32.

        Raises:
          UserError: no such dataset, not numbers, or damaged.
        """
        dataset = self._group.dataset(name)
        if dataset.dtype.kind not in "fiub":
            raise UserError(f"{self.place}: {name}", expected="numbers", found=dataset.dtype)
        with reading(f"{self.place}: {name}"):
            values = dataset[()]
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
          UserError: no such dataset, not RGB, or damaged.
        """
        pixels = self._group.dataset(name)
        if not is_image(pixels):
            raise UserError(
                f"{self.place}: {name}",
                expected="RGB uint8 [steps, rows, columns, 3]",
                found=f"{pixels.dtype} {list(pixels.shape)}",
            )
        try:
            check_size(*pixels.shape[1:3])
        except ValueError as error:
            raise UserError(f"{self.place}: {name}: {error}") from error
        out = []
        for start in range(0, len(pixels), _FRAMES_PER_READ):
            with reading(f"{self.place}: {name}"):
                frames = pixels[start : start + _FRAMES_PER_READ]
            out += [self._options.encoder(orient(frame, orientation)) for frame in frames]
        return out

    def reward(self) -> dict[str, np.ndarray]:
        """Reads `rewards` as the feature `reward`, where there are any."""
        return {"reward": self.read("rewards").astype(np.float32)} if self.has("rewards") else {}

    def terminal(self) -> bool:
        """Whether the task ended; without `dones` it did, as demonstrations do."""
        if not self.has("dones"):
            return True
        done = self.read("dones")
        if not np.isin(done, (0, 1)).all():
            raise UserError(
                f"{self.place}: dones", expected="0 or 1", found=listed(np.unique(done))
            )
        return bool(done[-1].any()) if len(done) else True

    def text(self, name: str) -> str | None:
        """Returns the nearest attribute of that name, if it is text; None without.

        Raises:
          UserError: it is not UTF-8.
        """
        found = (holder.attribute(name) for holder in self._holders)
        value = next((value for value in found if value is not None), None)
        if isinstance(value, bytes):
            try:
                return value.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{self.place}: attribute {name}", expected="text in UTF-8", found=error
                ) from error
        if value is not None and not isinstance(value, str):
            raise UserError(
                f"{self.place}: attribute {name}", expected="text", found=type(value).__name__
            )
        return value

    def attribute(self, name: str) -> Mapping[str, Any]:
        """Returns the nearest attribute of that name, parsed as JSON; empty without.

        Raises:
          UserError: it is not an object of JSON in UTF-8.
        """
        text = self.text(name)
        if text is None:
            return {}
        return json_file.decode(text, dict[str, Any], f"{self.place}: attribute {name}")

    def _check_lengths(self) -> None:
        steps = len(self._group.dataset("actions"))
        found = {name: len(self._group.dataset(name)) for name in _PER_STEP if self.has(name)}
        said = self._group.attribute("num_samples")
        if said is not None:
            found["attribute num_samples"] = said
        for name, length in found.items():
            if length != steps:
                raise UserError(
                    f"{self.place}: {name} and actions differ in length",
                    expected=f"{steps} steps, as actions",
                    found=length,
                    fix=AGAIN,
                )


def is_image(dataset: Any) -> bool:
    """Whether a dataset is RGB pixels, uint8 [t, y, x, 3]."""
    return dataset.dtype == np.uint8 and dataset.ndim == 4 and dataset.shape[-1] == 3


def is_vector(dataset: Any) -> bool:
    """Whether a dataset is a number or a vector of numbers per step."""
    return dataset.dtype.kind in "fiub" and dataset.ndim in (1, 2)


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        # Files that systems put beside, such as `._a.hdf5` of macOS, are hidden.
        found = [
            path
            for path in source.rglob("*")
            if path.suffix in _SUFFIXES and not path.name.startswith("._")
        ]
        return sorted(found, key=lambda path: _natural(str(path)))
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    return [source]


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorts `demo_2` before `demo_10`."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
