"""Failures of a disk, told as what a user can do something about."""

import contextlib
import errno
import os
from collections.abc import Iterator

from etils import epath

from vla_jax.core import errors

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def errors_of(action: str, directory: epath.Path) -> Iterator[None]:
    """Turns the failures of a disk into a UserError, also where they surface in a later call.

    Args:
      action: what is being done, such as `save step 3 in`.
      directory: to what.

    Raises:
      UserError: the disk is full, or the directory cannot be written.
    """
    try:
        yield
    except Exception as error:
        text = str(error)
        # From the threads of Orbax it comes as a text.
        if getattr(error, "errno", None) in _FULL or any(os.strerror(n) in text for n in _FULL):
            fix = "Free some space, or lower checkpoint.keep; checkpoints saved before are whole"
        elif isinstance(error, PermissionError | FileExistsError | NotADirectoryError):
            fix = "Choose a directory that can be written"
        else:
            raise
        found = text.splitlines()[0] if text else type(error).__name__
        raise errors.UserError(
            f"cannot {action} {directory}", found=found.removesuffix("."), fix=fix
        ) from error
