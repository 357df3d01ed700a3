"""Folders that are written under another name and take their place when they are complete."""

import contextlib
import errno
import os
import pathlib
import shutil
import socket
from collections.abc import Iterator

from vla_jax.core.errors import UserError
from vla_jax.data.sealed import ATTEMPTS, MANIFEST, DamagedError, Sealed

_FULL = (errno.ENOSPC, errno.EDQUOT)


class UnwritableError(UserError):
    """A folder cannot be written."""


@contextlib.contextmanager
def replacing(folder: pathlib.Path, *, is_cache: bool = False) -> Iterator[pathlib.Path]:
    """Gives an empty folder to fill and seal, which takes the place of `folder` in the end.

    An exception, an interrupt included, leaves everything as it was. What a killed process of this
    machine left behind is removed.

    Args:
      folder: what to replace.
      is_cache: whether it lies in the cache directory that the user named.

    Raises:
      UnwritableError: no folder can be made there, or the disk is full.
    """
    mine = f".{folder.name}.{socket.gethostname()}."
    fresh = folder.parent / f"{mine}{os.getpid()}"
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent, mine)
        fresh.mkdir()
        yield fresh
        _swap(fresh, folder)
    except OSError as error:
        where = "--cache-dir=DIR (in training: --config.cache_dir=DIR) to keep indexes elsewhere"
        words = ["name another" if is_cache else "pass", where]
        # numpy does not pass on the number of the error when an array does not fit.
        if error.errno in (*_FULL, None):
            words = ["make room there, or", *words]
        words[0] = words[0].capitalize()
        raise UnwritableError(
            f"index {folder}: cannot be written ({error.strerror or error})", fix=" ".join(words)
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):  # not empty: the index is there
                parent.rmdir()


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
    except (PermissionError, OverflowError):
        return True
    return True


def _swap(fresh: pathlib.Path, folder: pathlib.Path) -> None:
    """Puts `fresh` in the place of `folder`, unless another process put the same there."""
    for attempt in range(ATTEMPTS):
        try:
            os.replace(fresh, folder)
            return
        except OSError as error:  # what is not an empty folder is not replaced in one call
            is_taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
            if not is_taken or attempt == ATTEMPTS - 1:
                raise
        if _is_same(fresh, folder):
            return  # others may be reading it
        old = fresh.with_name(f"{fresh.name}.old")
        with contextlib.suppress(FileNotFoundError):  # by another process
            os.replace(folder, old)
        _remove(old)


def _is_same(fresh: pathlib.Path, folder: pathlib.Path) -> bool:
    try:
        if (folder / MANIFEST).read_bytes() != (fresh / MANIFEST).read_bytes():
            return False
        return Sealed.open(folder, seconds=float("inf")) is not None
    except (OSError, DamagedError):
        return False


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
