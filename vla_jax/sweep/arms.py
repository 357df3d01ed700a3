"""Arms from ranges of values: every combination, or some drawn at random."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vla_jax.sweep.sweep import Arm

_DIGITS = 3


@dataclasses.dataclass(frozen=True)
class Uniform:
    """A range for `random`: any number from low to high, or the logarithm of one.

    Attributes:
      low: the lower end.
      high: the upper end.
      log: draws uniformly in the logarithm.
    """

    low: float
    high: float
    log: bool = False


def grid(
    fields: Mapping[str, Sequence[Any] | Mapping[str, Any]],
    also: Mapping[str, Any] | None = None,
) -> tuple[Arm, ...]:
    """Returns an arm for every combination of values, the last field changing fastest.

    Args:
      fields: values by field of the configuration; by the name they get in the arm's where that is
        not the value itself.
      also: values for all of them.

    Returns:
      Arms named such as `count=64,kind=uniform`.
    """
    choices = [
        [(field, *choice) for choice in _named(values).items()] for field, values in fields.items()
    ]
    return tuple(
        Arm(
            name=",".join(f"{_short(field)}={name}" for field, name, _ in combination),
            set={**(also or {}), **{field: value for field, _, value in combination}},
        )
        for combination in itertools.product(*choices)
    )


def random(
    count: int, fields: Mapping[str, Uniform | Sequence[Any] | Mapping[str, Any]], *, seed: int
) -> tuple[Arm, ...]:
    """Returns arms with values drawn at random, the same for the same seed.

    Args:
      count: how many; a larger count begins with the same ones.
      fields: a range, or choices as in `grid`, by field of the configuration.
      seed: of the draw; the seeds of the runs are another thing.

    Returns:
      Arms named `random0`, `random1`, ...; numbers of a range have 3 significant digits.
    """
    generator = np.random.default_rng(seed)
    return tuple(
        Arm(
            name=f"random{number}",
            set={field: _draw(values, generator) for field, values in fields.items()},
        )
        for number in range(count)
    )


def _draw(values: Any, generator: np.random.Generator) -> Any:
    if not isinstance(values, Uniform):
        return list(_named(values).values())[int(generator.integers(len(values)))]
    low, high = values.low, values.high
    if values.log:
        return _rounded(math.exp(generator.uniform(math.log(low), math.log(high))))
    return _rounded(generator.uniform(low, high))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _named(values: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(values, Mapping):
        return dict(values)
    return {str(value): value for value in values}


def _short(field: str) -> str:
    return field.rpartition(".")[2]
