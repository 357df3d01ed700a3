"""What is computed from an index and kept: beside it, or in the cache where that is read-only."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from vla_jax.data import fresh_folder, index_files, sealed
from vla_jax.data.frame_index import FrameIndex
from vla_jax.data.sealed import Sealed
from vla_jax.runtime import progress


def keep(
    index: FrameIndex, name: str, write: Callable[[pathlib.Path], Mapping[str, Any]]
) -> Sealed:
    """Opens the folder `name` of an index, once; where there is no sound one, makes it first.

    Args:
      index: the index.
      name: of the folder; tells all that its content depends on.
      write: fills an empty folder with arrays and returns JSON values for its manifest.

    Raises:
      UnwritableError: no folder that may hold it can be written.
    """
    place = index.folder / name
    if place not in index.kept:
        index.kept[place] = _open_or_make(index, name, write)
    return index.kept[place]


def _open_or_make(
    index: FrameIndex, name: str, write: Callable[[pathlib.Path], Mapping[str, Any]]
) -> Sealed:
    places, is_cache = _places(index), index.cache_dir is not None
    for place in reversed(places):
        if (found := _open(place / name)) is not None:
            return found
    for place in places:
        try:
            with fresh_folder.replacing(place / name, is_cache=is_cache) as fresh:
                sealed.seal(fresh, write(fresh))
        except fresh_folder.UnwritableError:
            if place == places[-1]:
                raise
        else:
            return _made(place / name)
    raise AssertionError("an index has a place")


def _places(index: FrameIndex) -> list[pathlib.Path]:
    """Returns the folders that may hold it, the first to be tried first."""
    if index.cache_dir is None:
        return [index.folder]
    cache = index_files.candidates(index.directory, index.split, index.cache_dir)[0]
    if cache == index.folder:
        return [index.folder]
    # Not in the folder where an index may come to lie.
    return [index.folder, index_files.suffixed(cache, ".beside")]


def _open(folder: pathlib.Path) -> Sealed | None:
    try:
        return Sealed.open(folder)
    except sealed.DamagedError as error:
        progress.note(f"{error} It is made again")
        return None


def _made(folder: pathlib.Path) -> Sealed:
    opened = Sealed.open(folder)
    if opened is None:
        raise sealed.DamagedError(f"index file {folder}: removed while it was made")
    return opened
