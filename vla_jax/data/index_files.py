"""The folder of a frame index: where it lies, its arrays, written whole or not at all.

index.json                  what it was made of, its statistics
starts.npy records.npy      per episode: first frame; shard, start and length of its record
episode.npy t.npy           per frame
images/FEATURE.npy          per frame: start in the record, length in bytes
arrays/FEATURE.npy          per frame; one row where all frames have the same
texts/FEATURE.ids.npy       per frame (or, of lists, per text): which text
texts/FEATURE.utf8.npy      the distinct texts, one after the other; .ends.npy: their ends
texts/FEATURE.rows.npy      lists only: where the ids of each frame end
"""

import contextlib
import errno
import hashlib
import os
import pathlib
import shutil
import socket
from collections.abc import Iterator

import numpy as np

from vla_jax.core.errors import UserError
from vla_jax.data import schema
from vla_jax.runtime import storage

MANIFEST = "index.json"
BESIDE = ".vla_index"
# A folder cannot be made: no permission, or what should hold it is a file.
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_BLOCK = 1 << 16  # rows that are looked at together, when looking for constants


def candidates(
    directory: schema.Directory, split: str, cache_dir: str | os.PathLike[str] | None
) -> list[pathlib.Path]:
    """Returns the folders where the index of a split may lie; the first is the one to write.

    Raises:
      UserError: the data are remote and there is no cache directory.
    """
    folders = []
    if cache_dir is not None:
        name, version = schema.title(directory)
        path = os.fspath(directory)
        path = path.rstrip("/") if storage.is_remote(path) else os.path.realpath(path)
        digest = hashlib.sha256(path.encode()).hexdigest()[:12]
        folders.append(pathlib.Path(cache_dir, name, f"{version}-{digest}", split))
    if not storage.is_remote(directory):
        folders.append(pathlib.Path(directory, BESIDE, split))
    if not folders:
        raise UserError(
            f"dataset {directory}: its index cannot lie on remote storage",
            expected="a local directory for it",
            fix="Pass --cache-dir=DIR (cache_dir in a config)",
        )
    return folders


@contextlib.contextmanager
def replacing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives an empty folder to fill, which takes the place of `folder` when the block is left.

    An exception, an interrupt included, leaves everything as it was. What a killed process of this
    machine left behind is removed.

    Raises:
      UserError: no folder can be made there, or the disk is full.
    """
    mine = f".{folder.name}.{socket.gethostname()}."
    fresh = folder.parent / f"{mine}{os.getpid()}"
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent, mine)
        fresh.mkdir()
    except OSError as error:
        if error.errno not in _REFUSED + _FULL:
            raise
        raise _unwritable(folder, error, "Pass") from error
    try:
        yield fresh
        _swap(fresh, folder)
    except OSError as error:
        # numpy does not pass on the number of the error when an array does not fit.
        if error.errno not in (*_FULL, None):
            raise
        raise _unwritable(folder, error, "Make room there, or pass") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):  # not empty: the index is there
                parent.rmdir()


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

    def append(self, rows: list[list[bytes]], where: str) -> None:
        """Appends the texts of some frames.

        Args:
          rows: one list per frame, of one text unless these are lists.
          where: dataset, shard, episode and feature, for messages.

        Raises:
          UserError: a text is not UTF-8; names the step.
        """
        numbers = [self._id(text, where, t) for t, texts in enumerate(rows) for text in texts]
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

    def _id(self, text: bytes, where: str, t: int) -> int:
        number = self._ids.get(text)
        if number is None:
            try:
                text.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{where}, step {t}",
                    expected="UTF-8",
                    found=f"the byte {text[error.start]:#04x} in {text[:80]!r}",
                    fix="Generate the dataset with its texts in UTF-8",
                ) from error
            number = self._ids[text] = len(self._ids)
        return number


def suffixed(path: pathlib.Path, suffix: str) -> pathlib.Path:
    """Returns the path with a suffix behind its whole name, dots in it or not."""
    return path.with_name(path.name + suffix)


def load(path: pathlib.Path) -> np.ndarray:
    """Returns an array of the index, memory-mapped where it is not empty.

    Raises:
      UserError: the file is gone or damaged.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise UserError(
            f"index file {path}: cannot be read ({reason})",
            fix="Delete the folder of the index; it is made again",
        ) from error
    return array.view(np.ndarray)  # indexing a np.memmap costs twice as much


def shorten_constant(path: pathlib.Path) -> None:
    """Replaces an array whose rows are all the same by its first row."""
    array = load(path)
    first = array[:1].copy()
    blocks = (array[start : start + _BLOCK] for start in range(0, len(array), _BLOCK))
    if len(array) > 1 and all((block == first).all() for block in blocks):
        np.save(path, first)


def _unwritable(folder: pathlib.Path, error: OSError, begin: str) -> UserError:
    return UserError(
        f"index {folder}: cannot be written ({error.strerror or error})",
        fix=f"{begin} --cache-dir=DIR (cache_dir in a config) to keep indexes elsewhere",
    )


def _remove_abandoned(parent: pathlib.Path, prefix: str) -> None:
    """Removes what processes of this machine that are gone left behind."""
    for path in parent.glob(f"{prefix}*"):
        owner = path.name.removeprefix(prefix).split(".")[0]
        if owner.isdigit() and not _is_alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    if process == os.getpid():  # an earlier one with the same number
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _swap(fresh: pathlib.Path, folder: pathlib.Path) -> None:
    """Puts `fresh` in the place of `folder`."""
    try:
        os.replace(fresh, folder)
        return
    except OSError as error:  # a folder that is not empty is not replaced in one call
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    manifest = folder / MANIFEST
    if manifest.is_file() and manifest.read_bytes() == (fresh / MANIFEST).read_bytes():
        return  # another process made the same meanwhile, and others may be reading it
    old = suffixed(fresh, ".old")
    os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)
