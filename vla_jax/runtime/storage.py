"""Files and ranges of their bytes, on this machine or on object storage.

A path is remote when it has a scheme (`gs://`, `s3://`, `http(s)://`, `memory://`, ...); fsspec and
its backend for that scheme then do the reading. Remote paths are handled as strings throughout:
`pathlib` would collapse the two slashes.
"""

import fnmatch
import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import fsspec

from vla_jax.core import paths
from vla_jax.core.errors import UserError

T = TypeVar("T")

_PACKAGES = {
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "s3": "s3fs",
    "s3a": "s3fs",
    "http": "aiohttp",
    "https": "aiohttp",
}
# Descriptors this process keeps open for all its datasets: a quarter of the usual limit of 1024.
_DESCRIPTORS = 256


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a file on object storage or on a web server."""
    return "://" in os.fspath(path)


def join(directory: str | os.PathLike[str], name: str) -> str:
    """Returns the path of the file `name` in a local or remote directory."""
    if is_remote(directory):
        return f"{os.fspath(directory).rstrip('/')}/{name}"
    return os.path.join(paths.expand(directory), name)


def names(directory: str | os.PathLike[str], pattern: str = "*") -> list[str]:
    """Returns the sorted names of the files in a directory that match a shell pattern.

    Raises:
      UserError: the directory cannot be listed.
    """
    if not is_remote(directory):
        try:
            found = os.listdir(paths.expand(directory))
        except OSError as error:
            raise UserError(f"directory {directory}: {error.strerror}") from error
    else:
        path = os.fspath(directory)
        found = [
            entry.rstrip("/").rsplit("/", 1)[-1]
            for entry in remotely(path, lambda fs: fs.ls(path, detail=False))
        ]
    return sorted(name for name in found if fnmatch.fnmatchcase(name, pattern))


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file or directory of this path."""
    name = paths.expand(path)
    return remotely(name, lambda fs: fs.exists(name)) if is_remote(name) else os.path.exists(name)


def contents(path: str | os.PathLike[str]) -> bytes:
    """Returns a whole file, for the small ones: metadata of a dataset.

    Raises:
      UserError: it cannot be read.
    """
    name = paths.expand(path)
    if is_remote(name):
        return remotely(name, lambda fs: fs.cat_file(name))
    try:
        with open(name, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"file {name}: {error.strerror}") from error


class Files:
    """Numbered files that are read by ranges of bytes, from several threads at once.

    Args:
      paths: local paths or URLs.
      attempts: times a remote read is tried.
      delay: seconds before the second attempt, doubled before each further one.
    """

    def __init__(
        self, paths: Sequence[str | os.PathLike[str]], *, attempts: int = 5, delay: float = 0.5
    ):
        self.paths = tuple(os.fspath(path) for path in paths)
        self._attempts, self._delay = attempts, delay
        # Descriptors are found again by owner and path: whoever opens the same path later, when
        # the file may have been replaced, must not be given the old one.
        self._owner = object()

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def size(self, k: int) -> int:
        """Returns the bytes of file `k`.

        Raises:
          UserError: there is no such file, or its server does not say.
        """
        path = self.paths[k]
        if not is_remote(path):
            try:
                return os.stat(path).st_size
            except OSError as error:
                raise UserError(f"shard {path}: {error.strerror}") from error
        size = self._remotely(path, lambda fs: fs.info(path)["size"], what=f"shard {path}")
        if size is None:
            raise UserError(f"shard {path}", expected="a size from its server", found="none")
        return size

    def read(self, k: int, start: int, end: int) -> bytes:
        """Returns the bytes `start` to `end`, end exclusive, of file `k`.

        Raises:
          UserError: the file cannot be read or ends before `end`.
        """
        path = self.paths[k]
        if start >= end:
            return b""
        if is_remote(path):
            data = self._remotely(
                path,
                lambda fs: fs.cat_file(path, start=start, end=end),
                what=f"shard {path}, bytes {start} to {end}",
            )
        else:
            data = self._locally(path, start, end)
        if len(data) != end - start:
            raise UserError(
                f"shard {path}, bytes {start} to {end}",
                expected=f"{end - start} bytes",
                found=len(data),
                fix="Copy the shard again"
                if len(data) < end - start
                else "Serve it from storage that answers HTTP range requests",
            )
        return data

    def _locally(self, path: str, start: int, end: int) -> bytes:
        try:
            number = _descriptor(self._owner, path)
            return os.pread(number.fileno, end - start, start)
        except OSError as error:
            raise UserError(f"shard {path}, byte {start}: {error.strerror}") from error

    def _remotely(self, path: str, call: Callable[[Any], T], *, what: str) -> T:
        return remotely(path, call, what=what, attempts=self._attempts, delay=self._delay)


def remotely(
    path: str,
    call: Callable[[Any], T],
    *,
    what: str | None = None,
    attempts: int = 5,
    delay: float = 0.5,
) -> T:
    """Returns `call(file system of path)`, tried again when the failure may pass.

    Args:
      path: a URL.
      call: is given the fsspec file system.
      what: what is read, for messages; None names the path.
      attempts: how often it is tried.
      delay: seconds before the second attempt, doubled before each further one.

    Raises:
      UserError: the backend is not installed, the file is missing or refused, or the last attempt
        failed.
    """
    fs = filesystem(path, what=what)
    for attempt in range(1, attempts + 1):
        try:
            return call(fs)
        except Exception as error:  # every backend has exceptions of its own
            if attempt == attempts or not _may_pass(error):
                reason = f"{type(error).__name__} {error}".strip()
                raise UserError(f"{what or path}: cannot be read ({reason})") from error
        time.sleep(delay * 2 ** (attempt - 1))
    raise ValueError(f"attempts must be at least 1, not {attempts}")


def filesystem(path: str, *, what: str | None = None) -> Any:
    """Returns the fsspec file system of a path or URL.

    Args:
      path: where a file is.
      what: what is read, for messages; None names the path.

    Raises:
      UserError: its backend is not installed.
    """
    scheme = path.partition("://")[0] if is_remote(path) else "file"
    try:
        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:  # not installed; a scheme that nobody knows
        package = _PACKAGES.get(scheme)
        raise UserError(
            f"{what or path}: {error}",
            fix=f"Install it with: pip install {package}" if package else None,
        ) from error


def _may_pass(error: Exception) -> bool:
    """Whether a failure is worth another attempt: what is missing or forbidden stays so."""
    if isinstance(error, FileNotFoundError | PermissionError | NotImplementedError):
        return False
    status = getattr(error, "status", None)
    return not (isinstance(status, int) and 400 <= status < 500 and status not in (408, 429))


class _Descriptor:
    """An open file, closed when its last reader lets go of it, never during a read."""

    def __init__(self, path: str):
        self.fileno = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self):
        if hasattr(self, "fileno"):
            os.close(self.fileno)


@functools.lru_cache(maxsize=_DESCRIPTORS)
def _descriptor(owner: object, path: str) -> _Descriptor:
    return _Descriptor(path)
