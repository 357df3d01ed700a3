"""`config.a.b=text`: a field of the configuration set by text, read as its annotation says."""

import ast
import dataclasses
import difflib
import re
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from vla_jax.core.errors import UserError, listed
from vla_jax.core.fields import without_none

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_STEP = re.compile(r"(?P<name>.*?)(?:\[(?P<index>-?\d+)\])?")
_SHOWN = 200  # characters of a wrong value in a message

Implied = Mapping[str, Mapping[str, Mapping[str, Any]]]


def kind(cls: type, path: str) -> Any:
    """Returns the type of a field, without None where it may be None.

    Args:
      cls: the dataclass of the whole configuration.
      path: such as `config.optimizer.learning_rate`, `config.mixture.web.NAME.dir`,
        `config.loader.views[0]`.

    Raises:
      UserError: there is no such field; names the nearest.
    """
    return without_none(_walk(cls, path)[-1])


def apply(
    cls: type, tree: config_dict.ConfigDict, path: str, text: str, implied: Implied | None = None
) -> None:
    """Sets one field of a tree that `config.to_config_dict` made.

    Args:
      cls: the dataclass of the whole configuration.
      tree: is changed. An entry of a dict of dataclasses, or a dataclass that is None, is made if
        it is not there.
      path: as for `kind`.
      text: its value; `None` for a field that may be None; tuples as `1,2` or `(1, 2)`.
      implied: by the path of a dict, what its entries start from when they are made.

    Raises:
      UserError: there is no such field, or the text does not fit its type.
    """
    hints, names = _walk(cls, path), path.split(".")[1:]
    value = _read(hints[-1], path, text)
    node: Any = tree
    for depth, name in enumerate(names[:-1], start=1):
        if node.get(name) is None:
            start = (implied or {}).get(".".join(["config", *names[: depth - 1]]), {}).get(name, {})
            _set(node, name, config_dict.ConfigDict(dict(start)))
        node = node[name]
    match = _STEP.fullmatch(names[-1])
    if match and match["index"] is not None:
        items, index = list(node[match["name"]]), int(match["index"])
        if not -len(items) <= index < len(items):
            raise UserError(f"{path}: expected one of {len(items)} values")
        items[index] = value
        _set(node, match["name"], tuple(items))
    else:
        _set(node, names[-1], value)


def _set(node: config_dict.ConfigDict, name: str, value: Any) -> None:
    # Types are checked by `config.build`, for files and flags alike.
    with node.unlocked(), node.ignore_type():
        node[name] = value


def _walk(cls: type, path: str) -> list[Any]:
    """Returns the annotation at every step of a path, that of the whole first."""
    names = path.split(".")
    hints: list[Any] = [cls]
    for depth, step in enumerate(names[1:], start=1):
        match = _STEP.fullmatch(step)
        name = match["name"] if match else step
        parent = without_none(hints[-1])
        if typing.get_origin(parent) is dict:
            found = typing.get_args(parent)[1]
        elif dataclasses.is_dataclass(parent):
            fields = typing.get_type_hints(parent)
            if name not in fields:
                near = difflib.get_close_matches(name, fields, n=1)
                fix = f"Did you mean {'.'.join([*names[:depth], *near])}" if near else None
                raise _no_field(names, depth, f"one of {listed(fields, most=30)}", fix)
            found = fields[name]
        else:
            raise _no_field(names, depth, "no further name", None)
        if match and match["index"] is not None:
            if typing.get_origin(without_none(found)) is not tuple:
                raise _no_field(names, depth, "[...] behind a field of several values alone", None)
            found = typing.get_args(without_none(found))[0]
        hints.append(found)
    return hints


def _no_field(names: list[str], depth: int, expected: str, fix: str | None) -> UserError:
    where = ".".join(names[: depth + 1])
    return UserError(f"{where}: no such field", expected=expected, found=names[depth], fix=fix)


def _read(hint: Any, path: str, text: str) -> Any:
    """Returns the value that a text stands for; what is no value of the type stays text."""
    found = without_none(hint)
    if text == "None" and found is not hint:
        return None
    origin = typing.get_origin(found)
    if dataclasses.is_dataclass(found):
        or_none = ", or None" if found is not hint else ""
        raise UserError(path, expected=f"a name of its fields behind it{or_none}", found=text)
    try:
        if origin is tuple:
            return _tuple(found, text)
        if origin is dict:
            return config_dict.ConfigDict(dict(ast.literal_eval(text)))
        return _scalar(found, text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        spelled = found.__name__ if isinstance(found, type) and origin is None else str(found)
        raise UserError(
            path,
            expected=spelled + (" or None" if found is not hint else ""),
            found=repr(text)[:_SHOWN],
        ) from error


def _scalar(hint: Any, text: str) -> Any:
    if hint is bool:
        if text.lower() not in _BOOLEANS:
            raise ValueError(text)
        return _BOOLEANS[text.lower()]
    if hint in (int, float):
        return hint(text)
    if typing.get_origin(hint) is typing.Literal:
        return next((c for c in typing.get_args(hint) if str(c) == text), text)
    return text


def _tuple(hint: Any, text: str) -> tuple[Any, ...]:
    """Reads `1,2`, `(1, 2)`, `a,b` and `("a", "b")`."""
    try:
        value = ast.literal_eval(text) if text.strip() else ()
    except (ValueError, SyntaxError):
        item = typing.get_args(hint)[0]
        if item is not str and typing.get_origin(item) is not typing.Literal:
            raise
        return tuple(part.strip() for part in text.strip("()[]").split(",") if part.strip())
    return tuple(value) if isinstance(value, tuple | list) else (value,)
