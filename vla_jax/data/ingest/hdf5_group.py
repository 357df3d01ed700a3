"""One group of an HDF5 file: every look into it may fail, and names the place."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from vla_jax.core.errors import UserError, listed, nearest
from vla_jax.data.ingest.refusal import refusing

AGAIN = "Fetch or write the file again"


@contextlib.contextmanager
def reading(place: str) -> Iterator[None]:
    """Turns what HDF5 raises for damaged files, nearly anything, into one line.

    Args:
      place: what is read.

    Raises:
      UserError: it cannot be.
    """
    with refusing(f"{place}: HDF5 cannot read it", AGAIN):
        yield


class Group:
    """A group.

    Attributes:
      place: file, and what of it, for messages.
    """

    def __init__(self, group: Any, place: str):
        self._group, self.place = group, place

    def names(self) -> list[str]:
        """Returns the names of what is in it, sorted."""
        with reading(self.place):
            return sorted(self._group)

    def has(self, name: str) -> bool:
        """Whether there is something of that name in it."""
        with reading(f"{self.place}: {name}"):
            return self._group.get(name, getlink=True) is not None

    def group(self, name: str, place: str | None = None) -> "Group":
        """Returns a group in it, for messages at `place`.

        Raises:
          UserError: there is none of that name, or it is something else.
        """
        found = self.member(name)
        if not hasattr(found, "keys"):
            raise UserError(f"{self.place}: {name}", expected="a group", found="a dataset")
        return Group(found, place or self.place)

    def dataset(self, name: str) -> Any:
        """Returns a dataset with at least one axis, the pieces of which lie in this file.

        Raises:
          UserError: there is none of that name, or it is something else.
        """
        group, _, leaf = name.rpartition("/")
        if group:
            return self._checked(self.group(group).member(leaf, name), name)
        return self._checked(self.member(leaf), name)

    def attribute(self, name: str) -> Any:
        """Returns an attribute as a plain value; None without."""
        with reading(f"{self.place}: attribute {name}"):
            value = self._group.attrs.get(name)
            return value.item() if isinstance(value, np.generic) else value

    def member(self, name: str, full: str | None = None) -> Any:
        """Returns a group or a dataset in it.

        Args:
          name: directly in this group.
          full: its name for messages, where the search began further up.

        Raises:
          UserError: there is none of that name, or it is a link to another file.
        """
        what = f"{self.place}: {full or name}"
        with reading(what):
            link = self._group.get(name, getlink=True)
            names = sorted(self._group) if link is None else []
        if link is None:
            folder = (full or "").rpartition("/")[0]
            beside = [f"{folder}/{key}" if folder else key for key in names]
            raise UserError(
                f"{self.place}: no {full or name}",
                expected=f"one of {listed(beside)}" if beside else None,
                fix=nearest(full or name, beside),
            )
        if hasattr(link, "filename"):
            raise UserError(
                f"{what}: a link to another file", expected="data in this file", found=link.filename
            )
        with reading(what):
            return self._group[name]

    def _checked(self, found: Any, name: str) -> Any:
        if not hasattr(found, "dtype"):
            raise UserError(f"{self.place}: {name}", expected="a dataset", found="a group")
        with reading(f"{self.place}: {name}"):
            shape, outside = found.shape, found.external or found.is_virtual
        if not shape:
            raise UserError(
                f"{self.place}: {name}",
                expected="one row per step",
                found="nothing" if shape is None else "one value",
            )
        if outside:
            raise UserError(
                f"{self.place}: {name}: its values lie in other files",
                fix="Write them into this file",
            )
        return found
