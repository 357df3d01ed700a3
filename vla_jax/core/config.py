"""Configuration: frozen dataclasses inside, one ConfigDict at the command line, JSON on disk.

Defaults are declared once, on the dataclass that stands beside the code it configures. A config
file holds differences, flags override it, and `build` turns the result back into the dataclass
exactly once, naming the path of whatever does not fit.
"""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from ml_collections import config_dict

from vla_jax.core import errors
from vla_jax.core import fields as fields_lib

T = TypeVar("T")
Tree = Mapping[str, Any] | config_dict.ConfigDict  # A ConfigDict is not a Mapping.

_SHOWN = 200  # characters of a wrong value in a message
_SCALARS = (int, float, str, bool)


def to_config_dict(defaults: Any) -> Any:
    """Turns a dataclass into the ConfigDict that config files and flags override.

    Args:
      defaults: a dataclass instance; nested dataclasses, tuples and dicts of them allowed.

    Returns:
      A ConfigDict with one entry per field. A field that may be None keeps its type, so that a
      flag can still set it, whether it is None here or becomes so in a config file.
    """
    hints = typing.get_type_hints(type(defaults))
    out = config_dict.ConfigDict()
    for field in dataclasses.fields(defaults):
        out[field.name] = _to_entry(getattr(defaults, field.name), hints[field.name])
    return out


def build(cls: type[T], tree: Tree, path: str = "config") -> T:
    """Builds a dataclass from a ConfigDict or a plain dict, strictly.

    Args:
      cls: a dataclass type.
      tree: the values by field name; absent fields take the dataclass defaults.
      path: the name of `tree` in error messages.

    Returns:
      An instance of `cls`.

    Raises:
      UserError: a key is no field of `cls`, a field without a default is absent, a value does
        not have the annotated type (an int passes for a float) or is out of its range
        (`core/fields.py`), or `cls` refused the values.
    """
    hints = typing.get_type_hints(cls)
    fields = [field for field in dataclasses.fields(typing.cast(Any, cls)) if field.init]
    names = [field.name for field in fields]
    for key in tree:
        if key not in names:
            raise _unknown_field(cls, str(key), names, path)
    for field in fields:
        if field.name not in tree and _is_required(field):
            raise errors.UserError(
                f"{path}.{field.name}: {cls.__name__} needs this field",
                expected=_spell(hints[field.name]),
                found="nothing",
            )
    annotations = fields_lib.annotations(cls)
    values = {}
    for key in tree:
        value = _build_value(hints[key], tree[key], f"{path}.{key}")
        values[key] = fields_lib.settle(annotations[key], value, f"{path}.{key}")
    try:
        return cls(**values)
    except (errors.UserError, ValueError) as error:
        # A __post_init__ knows what is wrong but seldom where it stands in the whole config.
        message = str(error).removesuffix(".")
        is_placed = message.startswith((f"{path}.", f"{path}:"))
        raise errors.UserError(message if is_placed else f"{path}: {message}") from error


def to_json(config: Any) -> dict[str, Any]:
    """Turns a dataclass into plain JSON values, every default resolved.

    Args:
      config: a dataclass instance.

    Returns:
      Nested dicts and lists of scalars; `from_json` is the inverse.
    """
    return {
        field.name: _to_plain(getattr(config, field.name)) for field in dataclasses.fields(config)
    }


def from_json(cls: type[T], tree: Mapping[str, Any], path: str = "config") -> T:
    """Builds a dataclass from the output of `to_json`.

    Args:
      cls: a dataclass type.
      tree: nested dicts and lists, as `json.loads` returns them.
      path: the name of `tree` in error messages, for instance the file it came from.

    Returns:
      An instance of `cls`.

    Raises:
      UserError: as `build`.
    """
    return build(cls, tree, path)


def leaves(tree: Mapping[str, Any], path: str = "config") -> Iterator[tuple[str, Any]]:
    """Yields `config.optimizer.learning_rate` and its value, and so on for every leaf.

    Args:
      tree: the output of `to_json`.
      path: the name of `tree`.
    """
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}.{key}")
        else:
            yield f"{path}.{key}", value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "config") -> list[str]:
    """Lists the leaves in which two configs differ.

    Args:
      old: the output of `to_json` of one config.
      new: that of the other.
      path: the name of both.

    Returns:
      One line per changed leaf, sorted by path, such as
      `config.optimizer.learning_rate: 0.001 -> 0.002`.
    """
    before, after = dict(leaves(old, path)), dict(leaves(new, path))
    return [
        f"{name}: {before.get(name, 'absent')!s} -> {after.get(name, 'absent')!s}"
        for name in sorted(before.keys() | after.keys())
        if name not in before or name not in after or before[name] != after[name]
    ]


def _to_entry(value: Any, hint: Any) -> Any:
    kind = fields_lib.without_none(hint)
    if kind is not hint and not dataclasses.is_dataclass(value):
        return config_dict.FieldReference(value, field_type=_flag_type(kind))
    if dataclasses.is_dataclass(value):
        return to_config_dict(value)
    if isinstance(value, dict):
        return config_dict.ConfigDict({key: _to_entry(item, Any) for key, item in value.items()})
    if isinstance(value, tuple):
        return tuple(_to_entry(item, Any) for item in value)
    return value


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_to_plain(item) for item in value]
    return value


def _build_value(hint: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    kind = fields_lib.without_none(hint)
    if kind is not hint:
        return None if value is None else _build_value(kind, value, path)
    if origin is tuple:
        return _build_tuple(hint, value, path)
    if origin is typing.Literal:
        return _build_literal(hint, value, path)
    if origin is not dict and not dataclasses.is_dataclass(hint):
        return _build_scalar(hint, value, path)
    if not isinstance(value, Mapping | config_dict.ConfigDict):
        raise _wrong_type(hint, value, path)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path)
    # Sorted, since a ConfigDict, a flag and a JSON file need not agree on the order.
    return {key: _build_value(args[1], value[key], f"{path}.{key}") for key in sorted(value)}


def _build_scalar(hint: Any, value: Any, path: str) -> Any:
    if hint not in _SCALARS:
        raise TypeError(f"{path}: a config field cannot be annotated {hint!r}")
    if hint is float and type(value) is int:
        return float(value)
    # Not isinstance: True would pass for an int.
    if type(value) is not hint:
        raise _wrong_type(hint, value, path)
    return value


def _build_tuple(hint: Any, value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list):
        raise _wrong_type(hint, value, path)
    args = typing.get_args(hint)
    if args[-1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise errors.UserError(
            path, expected=f"{len(args)} values", found=f"{len(value)}: {value!r:.{_SHOWN}}"
        )
    pairs = zip(args, value, strict=True)
    return tuple(_build_value(arg, item, f"{path}[{i}]") for i, (arg, item) in enumerate(pairs))


def _build_literal(hint: Any, value: Any, path: str) -> Any:
    choices = typing.get_args(hint)
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        near = errors.nearest(str(value), [str(choice) for choice in choices])
        raise errors.UserError(path, expected=_spell(hint), found=repr(value)[:_SHOWN], fix=near)
    return value


def _unknown_field(cls: type, key: str, names: list[str], path: str) -> errors.UserError:
    return errors.UserError(
        f"{path}.{key}: {cls.__name__} has no such field",
        expected=f"one of {errors.listed(names, most=30)}",
        found=repr(key[:_SHOWN]),
        fix=errors.nearest(key, names),
    )


def _wrong_type(hint: Any, value: Any, path: str) -> errors.UserError:
    found = f"{type(value).__name__} {repr(value)[:_SHOWN]}"
    return errors.UserError(path, expected=_spell(hint), found=found)


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(repr(choice) for choice in typing.get_args(hint))}"
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _flag_type(hint: Any) -> type:
    if dataclasses.is_dataclass(hint) or typing.get_origin(hint) is dict:
        return config_dict.ConfigDict
    if typing.get_origin(hint) is typing.Literal:
        return type(typing.get_args(hint)[0])
    return typing.get_origin(hint) or hint


def _is_required(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing
