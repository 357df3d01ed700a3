"""The folder of a frame index: where it lies, and its arrays. `sealed.py` seals and checks it.

index.json                  what it was made of, its statistics; sizes and checksums of all files
starts.npy records.npy      per episode: first frame; shard, start and length of its record
episode.npy t.npy           per frame
images/FEATURE.npy          per frame: start in the record, length in bytes
images/FEATURE.sums.npy     per frame: the record's running checksum before and after the image
arrays/FEATURE.npy          per frame; one row where all frames have the same
texts/FEATURE.ids.npy       per frame (or, of lists, per text): which text
texts/FEATURE.utf8.npy      the distinct texts, one after the other; .ends.npy: their ends
texts/FEATURE.rows.npy      lists only: where the ids of each frame end
"""

import hashlib
import os
import pathlib

import numpy as np

from vla_jax.core import paths
from vla_jax.core.errors import UserError
from vla_jax.data import sealed, version_directories
from vla_jax.data.metadata import Directory
from vla_jax.runtime import storage

BESIDE = ".vla_index"
_BLOCK = 1 << 16  # rows that are looked at together, when looking for constants


def candidates(
    directory: Directory, split: str, cache_dir: str | os.PathLike[str] | None
) -> list[pathlib.Path]:
    """Returns the folders where the index of a split may lie; the first is the one to write.

    Raises:
      UserError: the data are remote and there is no cache directory.
    """
    folders = []
    if cache_dir is not None:
        name, version = version_directories.title(directory)
        path = paths.expand(directory)
        path = path.rstrip("/") if storage.is_remote(path) else os.path.realpath(path)
        digest = hashlib.sha256(path.encode()).hexdigest()[:12]
        folders.append(pathlib.Path(paths.expand(cache_dir), name, f"{version}-{digest}", split))
    if not storage.is_remote(directory):
        folders.append(pathlib.Path(paths.expand(directory), BESIDE, split))
    if not folders:
        raise UserError(
            f"dataset {directory}: its index cannot lie on remote storage",
            expected="a local directory for it",
            fix="Pass --cache-dir=DIR (in training: --config.cache_dir=DIR)",
        )
    return folders


class ArrayFile:
    """A .npy file that grows row by row.

    Args:
      path: where to write it; its folder is made.
      dtype: of the numbers.
      shape: of one row.
    """

    def __init__(self, path: pathlib.Path, dtype: np.dtype | type, shape: tuple[int, ...] = ()):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._dtype, self._shape = path, np.dtype(dtype), shape
        self._rows = 0
        self._file = path.open("wb")
        self._write_header()

    def append(self, rows: np.ndarray) -> None:
        """Appends rows [n, *shape]."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self._rows += len(rows)

    def finish(self) -> None:
        """Completes the file."""
        # numpy leaves room in the header for the first axis to grow.
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def close(self) -> None:
        """Closes the file, complete or not."""
        self._file.close()

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._rows, *self._shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)


class TextFiles:
    """The texts of one feature: every distinct one once, and which each frame has.

    Args:
      path: without its suffixes.
      is_list: whether a frame has a list of them.
    """

    def __init__(self, path: pathlib.Path, *, is_list: bool):
        self._path = path
        self._ids: dict[bytes, int] = {}
        self._file = ArrayFile(suffixed(path, ".ids.npy"), np.int32)
        self._rows = ArrayFile(suffixed(path, ".rows.npy"), np.int64) if is_list else None
        self._count = 0

    def append(self, rows: list[list[bytes]]) -> None:
        """Appends texts: a list per frame, of one text unless these are lists."""
        ids = self._ids
        numbers = [ids.setdefault(text, len(ids)) for texts in rows for text in texts]
        self._file.append(np.array(numbers, np.int32))
        if self._rows is not None:
            ends = self._count + np.cumsum([len(texts) for texts in rows])
            self._rows.append(ends)
            self._count = int(ends[-1])

    def finish(self) -> None:
        """Writes the distinct texts."""
        self._file.finish()
        if self._rows is not None:
            self._rows.finish()
        lengths = [len(text) for text in self._ids]
        np.save(suffixed(self._path, ".ends.npy"), np.cumsum(lengths, dtype=np.int64))
        whole = np.frombuffer(b"".join(self._ids), np.uint8)
        np.save(suffixed(self._path, ".utf8.npy"), whole)

    def close(self) -> None:
        """Closes the files, complete or not."""
        self._file.close()
        if self._rows is not None:
            self._rows.close()


def suffixed(path: pathlib.Path, suffix: str) -> pathlib.Path:
    """Returns the path with a suffix behind its whole name, dots in it or not."""
    return path.with_name(path.name + suffix)


def shorten_constant(path: pathlib.Path) -> None:
    """Replaces an array whose rows are all the same by its first row."""
    array = sealed.load(path)
    first = array[:1].copy()
    blocks = (array[start : start + _BLOCK] for start in range(0, len(array), _BLOCK))
    if len(array) > 1 and all((block == first).all() for block in blocks):
        np.save(path, first)
