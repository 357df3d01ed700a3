"""TFDS version directories: where they lie, and which dataset and version each one is."""

import os
import posixpath
from collections.abc import Iterator

from vla_jax.core.errors import UserError
from vla_jax.data import metadata
from vla_jax.data.metadata import Directory
from vla_jax.runtime import storage

_VERSION_FILES = ("features.json", "dataset_info.json")
_DEEPEST = 3  # parent / name / config / version


def title(directory: Directory) -> tuple[str, str]:
    """Returns the name and the version of a dataset, from its metadata or its path."""
    version, name = _last_parts(directory)
    if storage.exists(storage.join(directory, "dataset_info.json")):
        info = metadata.info(directory)
        return info.name, info.version or version
    return name, version


def find(directory: Directory) -> list[str]:
    """Finds the version directories in a directory of datasets, or the directory itself.

    Raises:
      UserError: there is none within three levels (name, config, version).
    """
    found = list(_version_directories(os.fspath(directory), _DEEPEST))
    if not found:
        raise UserError(
            f"directory {directory}",
            expected="a TFDS version directory (with features.json), or a parent of some",
            found="none within three levels",
        )
    return found


def _version_directories(directory: str, depth: int) -> Iterator[str]:
    names = storage.names(directory)
    if set(_VERSION_FILES) & set(names):
        yield directory
    elif depth:
        for name in names:
            path = storage.join(directory, name)
            # A remote listing does not say what is a folder: what has a suffix is a file.
            is_folder = os.path.isdir(path) or (storage.is_remote(path) and _may_be_folder(name))
            if is_folder and not name.startswith("."):
                yield from _version_directories(path, depth - 1)


def _may_be_folder(name: str) -> bool:
    suffix = posixpath.splitext(name)[1]
    return not suffix or suffix[1:].isdigit()  # 1.0.0 is a version


def _last_parts(directory: Directory) -> tuple[str, str]:
    path = os.fspath(directory)
    parts = (
        path.rstrip("/").split("/")
        if storage.is_remote(path)
        else os.path.abspath(path).split(os.sep)
    )
    version = parts[-1]
    return version, parts[-2] if len(parts) > 1 and parts[-2] else version
