"""What the annotation of a configuration's field says beyond its type: its range, or a path.

    steps: Annotated[int, Range(1, 10**9)] = 80_000
    dir: PathText | None = None

`Checked` holds a dataclass to it, whoever constructs it; `config.build` does so with the field's
path in the whole configuration, before the class sees the value.
"""

import dataclasses
import functools
import math
import os
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from vla_jax.core import paths
from vla_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a field may be, both ends included unless it says otherwise.

    Attributes:
      low: the lowest.
      high: the highest. It keeps out what no machine can hold, and is no advice.
      above: whether `low` itself is out.
      below: whether `high` itself is out.
      also: a number outside that has a meaning of its own, such as -1 for all.
      fix: what to do about another number, for the message.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False
    also: int | None = None
    fix: str | None = None

    def __contains__(self, value: float) -> bool:
        """Whether a number is in the range; nan never is."""
        over = self.low < value if self.above else self.low <= value
        under = value < self.high if self.below else value <= self.high
        return (over and under) or (self.also is not None and value == self.also)

    def __str__(self) -> str:
        """Returns `1..100`, or `0 < x <= 1` where an end is out."""
        text = f"{self.low:.10g}..{self.high:.10g}"
        if self.above or self.below:
            signs = ["<" if out else "<=" for out in (self.above, self.below)]
            text = f"{self.low:.10g} {signs[0]} x {signs[1]} {self.high:.10g}"
        return text if self.also is None else f"{text} or {self.also}"


class _Expanded:
    """Marks a text that is a path: a leading `~` becomes the home directory."""


PathText = Annotated[str, _Expanded()]
Count = Annotated[int, Range(1, 2**31 - 1)]  # of what steps count: int32 on devices
Natural = Annotated[int, Range(0, 2**31 - 1)]
Size = Annotated[int, Range(1, 2**20)]  # one axis of an array
Seed = Annotated[int, Range(0, 2**32 - 1)]
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(0, 10**9, above=True)]
NotNegative = Annotated[float, Range(0, 10**9)]
Factor = Annotated[float, Range(0, 1, below=True)]  # of a running average
# Of a dataset: a weight of 0 would keep it and never read it.
Weight = Annotated[
    float, Range(0, 10**9, above=True, fix="To leave a dataset out, take it out of the mixture")
]
JpegQuality = Annotated[int, Range(1, 100)]


class Checked:
    """A dataclass whose fields are held to their annotations when it is made.

    A subclass with a `__post_init__` of its own calls this one first.

    Raises:
      UserError: a number is out of its range or not finite; names class and field.
    """

    def __post_init__(self) -> None:
        """Checks every field, and expands paths."""
        hints = annotations(type(self))
        for name, hint in hints.items():
            value = getattr(self, name)
            settled = settle(hint, value, f"{type(self).__name__}.{name}")
            if settled is not value:
                object.__setattr__(self, name, settled)


@functools.cache
def annotations(cls: type) -> Mapping[str, Any]:
    """Returns the annotation of every field of a dataclass, with what `Annotated` adds."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(typing.cast(Any, cls))}


def settle(hint: Any, value: Any, path: str) -> Any:
    """Returns a value with its paths expanded, if its numbers are in range.

    Args:
      hint: the field's annotation.
      value: of the annotated type. Dataclasses inside are left alone; they check themselves.
      path: the field's name in messages.

    Raises:
      UserError: a number is out of its range or not finite.
    """
    if isinstance(value, dict):
        kind = typing.get_args(without_none(hint))[1]
        return _same({k: settle(kind, v, f"{path}.{k}") for k, v in value.items()}, value)
    if isinstance(value, tuple):
        kinds = typing.get_args(without_none(hint))
        kinds = kinds[:1] * len(value) if kinds[-1:] == (...,) else kinds
        if len(kinds) != len(value):
            return value  # `build` says so; a class made in Python is the caller's
        parts = enumerate(zip(kinds, value, strict=True))
        return _same(tuple(settle(k, v, f"{path}[{i}]") for i, (k, v) in parts), value)
    for mark in marks(hint):
        if isinstance(mark, _Expanded) and isinstance(value, str | os.PathLike):
            value = paths.expand(value)
        if isinstance(mark, Range) and isinstance(value, int | float) and value not in mark:
            raise UserError(path, expected=mark, found=_spell(value), fix=mark.fix)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(path, expected="a finite number", found=value)
    return value


def without_none(hint: Any) -> Any:
    """Returns the type of a field that may be None without the None; of another, its type.

    Raises:
      TypeError: it may be of several types.
    """
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint
    kept = [part for part in typing.get_args(hint) if part is not type(None)]
    if len(kept) != 1:
        raise TypeError(f"a config field that may be None has one other type, got {hint!r}")
    return kept[0]


def marks(hint: Any) -> Iterator[Any]:
    """Yields what `Annotated` adds to a type, or to the type of a field that may be None."""
    if typing.get_origin(hint) is Annotated:
        yield from hint.__metadata__
    elif typing.get_origin(hint) not in (tuple, dict, typing.Literal):
        for part in typing.get_args(hint):
            yield from marks(part)


def _same(new: Any, old: Any) -> Any:
    """Returns the old value if the new one is equal, so that nothing is set in vain."""
    return old if new == old else new


def _spell(value: float) -> str:
    """Returns a number as text; Python refuses to print integers of thousands of digits."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    return str(value)
