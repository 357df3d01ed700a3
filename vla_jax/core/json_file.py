"""JSON as it is read: its syntax, and then the types of its fields, are checked in one place."""

import json
import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from vla_jax.core import paths
from vla_jax.core.errors import UserError

T = TypeVar("T")

# How msgspec ends its messages: the place of what does not fit.
_PLACE = re.compile(r"(?P<problem>.*?)(?: - at `(?P<place>[^`]*)`)?", re.DOTALL)


def read(path: str | os.PathLike[str], kind: type[T], *, fix: str | None = None) -> T:
    """Reads a JSON file.

    Args:
      path: a file on this machine.
      kind: the type of its content, such as `dict[str, Any]`, a TypedDict, or a dataclass or
        msgspec.Struct with a type for every field. Fields that `kind` does not have are ignored.
      fix: what to do when the file is not what it should be, for the message.

    Raises:
      UserError: the file cannot be read, is not JSON, or a field has another type; names the file
        and the field.
    """
    try:
        data = pathlib.Path(paths.expand(path)).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", fix=fix) from error
    return decode(data, kind, os.fspath(path), fix=fix)


def read_lines(path: str | os.PathLike[str], kind: type[T], *, fix: str | None = None) -> list[T]:
    """Reads a file with a JSON value a line; empty lines are skipped.

    Args:
      path: a file on this machine.
      kind: the type of every line, as for `read`.
      fix: what to do when a line is not what it should be, for the message.

    Raises:
      UserError: as `read`; names the file, the line and the field.
    """
    try:
        lines = pathlib.Path(paths.expand(path)).read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", fix=fix) from error
    return list(_decode_lines(lines, kind, os.fspath(path), fix))


def decode(data: bytes | str, kind: type[T], what: str, *, fix: str | None = None) -> T:
    """Returns the value that JSON text stands for.

    Args:
      data: the text, UTF-8 if bytes. `NaN` and `Infinity` are read as Python's `json` writes them.
      kind: the type of the value, as for `read`.
      what: the name of the text in messages, such as its path.
      fix: what to do when it is not what it should be, for the message.

    Raises:
      UserError: as `read`.
    """
    try:
        value = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # the former also of UTF-8 and of huge integers
        raise UserError(f"{what}: not valid JSON ({error})", fix=fix) from error
    return convert(value, kind, what, fix=fix)


def convert(value: Any, kind: type[T], what: str, *, fix: str | None = None) -> T:
    """Checks the types of a value that was read from JSON.

    Args:
      value: dicts, lists and scalars.
      kind: the type that is wanted, as for `read`.
      what: the name of the value in messages.
      fix: what to do when it does not fit, for the message.

    Returns:
      The value, with dataclasses and Structs where `kind` has them.

    Raises:
      UserError: a field is missing or has another type; names it.
    """
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise UserError(f"{what}{_spell(str(error))}", fix=fix) from error


def check_finite(value: Any, what: str, place: str = "") -> None:
    """Refuses numbers that are nan or infinite, which Python's `json` writes and reads.

    Args:
      value: dicts, lists and scalars.
      what: the name of the value in messages.
      place: the field that it is.

    Raises:
      UserError: one is not finite; names its field.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{what}, field {place}", expected="a finite number", found=value)
    if isinstance(value, Mapping | list):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in pairs:
            check_finite(item, what, f"{place}.{key}".removeprefix("."))


def _decode_lines(lines: list[bytes], kind: type[T], name: str, fix: str | None) -> Iterator[T]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield decode(line, kind, f"{name}, line {number}", fix=fix)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses an object with a key twice, of which `json` would silently take the last."""
    out = dict(pairs)
    if len(out) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} appears twice in one object")
    return out


def _spell(message: str) -> str:
    """Turns `Expected `int`, got `str` - at `$.a.b`` into `, field a.b: expected int, got str`."""
    match = _PLACE.fullmatch(message)
    problem, place = (match["problem"], match["place"]) if match else (message, None)
    place = (place or "").removeprefix("$").removeprefix(".")
    problem = problem.replace("`", "").rstrip(".")
    problem = problem[:1].lower() + problem[1:]
    return f", field {place}: {problem}" if place else f": {problem}"
