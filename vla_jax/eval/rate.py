"""A success rate with its uncertainty."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

_Z = 1.959964  # 95%


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of successes with its 95% Wilson interval.

    Attributes:
      rate: successes / episodes, 0..1.
      low: lower end of the interval.
      high: upper end.
      episodes: number of trials.
    """

    rate: float
    low: float
    high: float
    episodes: int

    @classmethod
    def of(cls, successes: Iterable[bool]) -> "Rate":
        """Counts trials. Source: Wilson 1927; exact enough at 0 and 1, unlike the normal interval.

        Raises:
          ValueError: there is no trial.
        """
        trials = [bool(success) for success in successes]
        n = len(trials)
        if not n:
            raise ValueError("a rate of no trials")
        rate, z2 = sum(trials) / n, _Z * _Z
        centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
        return cls(rate=rate, low=max(0.0, centre - half), high=min(1.0, centre + half), episodes=n)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values, rounded to 4 digits."""
        return {k: round(v, 4) for k, v in dataclasses.asdict(self).items()}
