"""Folders of arrays that are written once and checked when they are opened.

`index.json`, the manifest, has the size and the CRC32C of every file of its folder, and its own.
Opening compares all sizes, and the checksums of as much as can be read in half a second, the small
files first. What is left of large ones is compared in the background; a difference found there ends
the run at its next read.
"""

import contextlib
import json
import os
import pathlib
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from awscrt.checksums import crc32c

from vla_jax.core import json_file
from vla_jax.core.errors import UserError

MANIFEST = "index.json"
_OWN = "crc32c"  # the field of the manifest that has the checksum of all others
_SECONDS = 0.5  # that an opening spends on checksums
_CHUNK = 1 << 18  # bytes
ATTEMPTS = 5  # while other processes put folders of their own in the same place
_background = threading.Lock()  # one folder at a time


class DamagedError(UserError):
    """A file of a sealed folder is not what was written; the folder has to be made again."""


class Sealed:
    """A folder, opened. Reading is safe from several threads.

    Args:
      folder: where the files lie.
      manifest: its values and the sizes and checksums of its files.
      data: the text of the manifest.

    Attributes:
      folder: as given.
      values: what the manifest says beside sizes and checksums.
    """

    def __init__(self, folder: pathlib.Path, manifest: Mapping[str, Any], data: bytes):
        self.folder, self._data = folder, data
        self._files: Mapping[str, Any] = manifest["files"]
        self.values = {name: manifest[name] for name in manifest.keys() - {"files", _OWN}}
        # Every mapped file keeps a descriptor, so that each is mapped once, and not before its use.
        self._arrays: dict[str, np.ndarray] = {}
        self._damage: DamagedError | None = None

    @classmethod
    def open(cls, folder: pathlib.Path, *, seconds: float = _SECONDS) -> "Sealed | None":
        """Opens a folder; None if there is none, or one from before there were checksums.

        Args:
          folder: the folder.
          seconds: how long to compare checksums before the rest is left to the background.

        Raises:
          DamagedError: a file is missing or not what was written; names it.
        """
        while True:
            data = _manifest(folder)
            if data is None:
                return None
            try:
                return cls._open(folder, data, seconds)
            except DamagedError:
                with contextlib.suppress(DamagedError):
                    if _manifest(folder) != data:  # replaced meanwhile
                        continue
                raise

    @classmethod
    def _open(cls, folder: pathlib.Path, data: bytes, seconds: float) -> "Sealed | None":
        path = folder / MANIFEST
        try:
            manifest = json_file.decode(data, dict[str, Any], f"index file {path}, damaged")
        except UserError as error:
            raise DamagedError(str(error).rstrip(".")) from error
        if _OWN not in manifest:
            return None
        own = manifest.pop(_OWN)
        if own != _checksum_of(manifest):
            raise _damaged(path, f"checksum {own}", _checksum_of(manifest))
        sealed = cls(folder, manifest, data)
        sealed._check_sizes()
        left, end = sealed._differences(), time.monotonic() + seconds
        for _ in left:
            if time.monotonic() > end:
                threading.Thread(
                    target=sealed._check_in_background, args=(left,), daemon=True
                ).start()
                break
        return sealed

    def load(self, part: str) -> np.ndarray:
        """Returns one of the arrays, mapped.

        Args:
          part: its path in the folder.

        Raises:
          DamagedError: the file, or another of the folder, is gone or damaged.
        """
        self.raise_if_damaged()
        if part not in self._arrays:
            self._arrays[part] = load(self.folder / part)
        return self._arrays[part]

    def raise_if_damaged(self) -> None:
        """Tells what was found in the background.

        Raises:
          DamagedError: a file is not what was written.
        """
        if self._damage is not None:
            raise self._damage

    def _check_sizes(self) -> None:
        for name, entry in self._files.items():
            path = self.folder / name
            try:
                status = os.stat(path)
            except OSError as error:
                raise _damaged(path, "a file", error.strerror or error) from error
            if not stat.S_ISREG(status.st_mode):
                raise _damaged(path, "a file", "something else")
            if status.st_size != entry["bytes"]:
                raise _damaged(path, f"{entry['bytes']} bytes", status.st_size)

    def _differences(self) -> Iterator[None]:
        """Compares checksums, a chunk between two yields.

        Raises:
          DamagedError: one differs.
        """
        for name, entry in sorted(self._files.items(), key=lambda item: item[1]["bytes"]):
            path, found = self.folder / name, 0
            try:
                for checksum in _checksums(path):
                    found = checksum
                    yield
            except OSError as error:
                raise _damaged(path, "a file", error.strerror or error) from error
            if found != entry[_OWN]:
                raise _damaged(path, f"checksum {entry[_OWN]}", found)

    def _check_in_background(self, left: Iterator[None]) -> None:
        try:
            with _background:
                for _ in left:
                    pass
        except DamagedError as error:
            with contextlib.suppress(DamagedError):
                if _manifest(self.folder) != self._data:
                    return  # replaced meanwhile; what is mapped stays as it was
            fix = f"Delete {self.folder} and run the same command again, which makes it anew"
            self._damage = DamagedError(str(error).rstrip("."), fix=fix)


def seal(folder: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Writes the manifest of a folder whose files are complete.

    Args:
      folder: the folder.
      values: JSON values that the manifest shall have.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            *_, checksum = 0, *_checksums(path)
            name = path.relative_to(folder).as_posix()
            files[name] = {"bytes": path.stat().st_size, _OWN: checksum}
    manifest = {**values, "files": files}
    text = json.dumps({**manifest, _OWN: _checksum_of(manifest)}, indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def load(path: pathlib.Path) -> np.ndarray:
    """Returns an array, memory-mapped where it is not empty.

    Raises:
      DamagedError: the file is gone or damaged.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise _damaged(path, "an array", reason or error) from error
    return array.view(np.ndarray)  # indexing a np.memmap costs twice as much


def _manifest(folder: pathlib.Path) -> bytes | None:
    """Returns the text of a manifest; None if there is no such folder."""
    path, reason = folder / MANIFEST, ""
    for _ in range(ATTEMPTS):
        try:
            return path.read_bytes()
        except OSError as error:
            reason = error.strerror
            is_absent = isinstance(error, FileNotFoundError | NotADirectoryError)
        if is_absent and not os.path.isdir(folder):
            return None
        # Another process may be putting one here.
    raise _damaged(path, "a file", reason)


def _damaged(path: pathlib.Path, expected: str, found: object) -> DamagedError:
    return DamagedError(f"index file {path}: damaged", expected=expected, found=found)


def _checksum_of(manifest: Mapping[str, Any]) -> int:
    return crc32c(json.dumps(manifest, sort_keys=True).encode())


def _checksums(path: pathlib.Path) -> Iterator[int]:
    """Yields the CRC32C of a file up to the end of each chunk."""
    checksum = 0
    with path.open("rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            checksum = crc32c(data, checksum)
            yield checksum
