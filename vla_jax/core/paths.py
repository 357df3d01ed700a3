"""Paths as users type them, and names of files that come out of files."""

import os
import pathlib
import re

from vla_jax.core.errors import UserError


def expand(path: str | os.PathLike[str]) -> str:
    """Returns a path as text, a leading `~` or `~user` replaced by the home directory.

    A URL (`gs://...`) stays as it is.
    """
    text = os.fspath(path)
    return text if "://" in text else os.path.expanduser(text)


def below(folder: str | os.PathLike[str], name: str, what: str) -> pathlib.Path:
    """Returns the path of a file that another file names, which has to lie below a folder.

    The check is of the name alone: links inside the folder may lead anywhere, as those of the
    Hugging Face cache do.

    Args:
      folder: where the file has to lie.
      name: the name as it was read, relative to `folder`.
      what: the file and field that name it, for the message.

    Raises:
      UserError: the name is empty, absolute, has a part `..`, a drive or a character that no
        file name can have.
    """
    parts = re.split(r"[/\\]", name)
    is_absolute = not parts[0] or re.match(r"[A-Za-z]:", name)
    if is_absolute or ".." in parts or "\0" in name or "://" in name:
        raise UserError(
            what,
            expected=f"the name of a file below {os.fspath(folder)}",
            found=repr(name[:200]),
            fix="Correct it; a dataset's files lie in the dataset's folder",
        )
    return pathlib.Path(folder, name)
