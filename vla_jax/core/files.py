"""Small files written whole or not at all."""

import contextlib
import os
import pathlib

from vla_jax.core import paths


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file under another name beside `path` and then renames it; makes its folder.

    Raises:
      OSError: the file system refuses; names the path, and nothing is left behind.
    """
    path = pathlib.Path(paths.expand(path))
    growing = partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        growing.write_bytes(data)
        os.replace(growing, path)
    except OSError as error:
        # That the disk is full comes without a name.
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        with contextlib.suppress(OSError):
            growing.unlink()


def partial(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the name of a file while it is written, which a kill leaves behind."""
    path = pathlib.Path(paths.expand(path))
    return path.with_name(f".{path.name}.partial")
