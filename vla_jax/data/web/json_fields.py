"""The texts of a JSON record by name, for the formats that keep their texts in JSON."""

from collections.abc import Collection
from typing import Any

from vla_jax.core import json_file
from vla_jax.data.web import formats


def read(text: bytes, names: Collection[str], where: str) -> dict[str, list[str] | None]:
    """Parses a JSON object.

    Args:
      text: the object.
      names: the fields whose texts are wanted; `a/b` is field `b` of `a` or of each item of `a`.
      where: the example, for messages.

    Returns:
      field -> its texts; None for a field that is not wanted or no text.

    Raises:
      UserError: it is no JSON object or not UTF-8.
    """
    again = "Write it again as one JSON object; a record must not span lines"
    record = json_file.decode(formats.decode(text, where), dict[str, Any], where, fix=again)
    fields: dict[str, list[str] | None] = dict.fromkeys(record)
    for name in names:
        outer, _, inner = name.partition("/")
        if outer in record:
            value = _inside(record[outer], inner) if inner else record[outer]
            if not inner or value:
                fields[name] = _texts(value)
    return fields


def _inside(value: Any, name: str) -> list[Any]:
    """Returns field `name` of an object, or of every object of a list."""
    items = value if isinstance(value, list) else [value]
    return [item[name] for item in items if isinstance(item, dict) and name in item]


def _texts(value: Any) -> list[str] | None:
    """Returns a text, a number or a list of them as texts; None for anything else."""
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, bool) or not isinstance(item, str | int | float) for item in items):
        return None
    return [str(item) for item in items]
