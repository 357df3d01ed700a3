"""Locks of directories: held by one process, on whatever host, until it ends in whatever way.

The lock is the kernel's (`flock`), on a file that says who holds it; so none outlives its process,
and nothing has to be cleaned up by hand. Over NFS it works between hosts as well, from version 4 on
and with a lock daemon before; a file system that knows no locks is told of, and goes on without.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import IO

from vla_jax.core.errors import UserError
from vla_jax.runtime import progress

FILE = "lock"
_UNKNOWN = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def take(path: str | os.PathLike[str]) -> IO[str] | None:
    """Takes a lock.

    Args:
      path: of its file, which is made.

    Returns:
      The open file, whose closing gives the lock back, unless a process has inherited it; None
      where somebody else holds it.

    Raises:
      OSError: the file cannot be made.
    """
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  (the caller closes it)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            if error.errno not in _UNKNOWN:
                file.close()
                raise
            progress.note(
                f"{path}: this file system knows no locks ({error.strerror}); make sure that no "
                "other process uses the directory"
            )
            return file
        if _is_at(file, path):
            return file
        file.close()  # Its last holder has removed it in between.


@contextlib.contextmanager
def held(directory: str | os.PathLike[str], what: str, fix: str) -> Iterator[None]:
    """Holds the lock of a directory, which is made.

    Args:
      directory: whose.
      what: the thing, for the message.
      fix: what to do where another process holds it; a `{holder}` in it is replaced.

    Raises:
      UserError: another process does; names it and its host.
    """
    path = pathlib.Path(directory) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    file = take(path)
    if file is None:
        holder = _holder(path)
        raise UserError(f"{what} is in use by {holder}", fix=fix.format(holder=holder))
    with file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()  # Still locked: whoever has opened it by now, tries again.


def _holder(path: pathlib.Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        if text := path.read_text(encoding="utf-8")[:200].strip():
            return text
    return "another process"


def _is_at(file: IO[str], path: str | os.PathLike[str]) -> bool:
    """Whether an open file is the one that has this path now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
