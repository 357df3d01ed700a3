"""What seeds allow to say: a mean with its interval, and which differences are no accident."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

LEVEL = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over seeds.

    Attributes:
      value: the mean.
      half: half of its 95% interval, by Student's t; nan for one seed.
      count: number of seeds.
    """

    value: float
    half: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Averages one measure of one arm.

        Raises:
          ValueError: there is no value.
        """
        count = len(values)
        if not count:
            raise ValueError("a mean of no seeds")
        half = math.nan
        if count > 1:
            quantile = float(stats.t.ppf(1 - LEVEL / 2, count - 1))
            half = quantile * _deviation(values) / math.sqrt(count)
        return cls(value=float(np.mean(values)), half=half, count=count)


def holm(p_values: Mapping[str, float], level: float = LEVEL) -> set[str]:
    """Returns the comparisons that hold at a level for all of them together.

    Source: Holm 1979, a step-down Bonferroni: the k-th smallest of m against level / (m - k + 1).

    Args:
      p_values: of each comparison.
      level: largest probability of even one false one.
    """
    ordered = sorted(p_values, key=p_values.__getitem__)
    for k, name in enumerate(ordered):
        if p_values[name] > level / (len(ordered) - k):
            return set(ordered[:k])
    return set(ordered)


def _deviation(values: Sequence[float]) -> float:
    """Returns the standard deviation of a sample; exactly 0 where rounding would leave a trace."""
    return float(np.std(values, ddof=1)) if np.ptp(values) else 0.0
