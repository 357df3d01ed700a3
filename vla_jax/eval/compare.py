"""Two evaluations on the same fixed episodes: is one better, or was it luck?

Of two runs every episode says which of them succeeded; those that both did, or neither, say
nothing. The exact McNemar test asks whether the others fall to both sides as a fair coin would.
Of several runs a side, episodes of one run share its luck in training: the run is the unit, its
success rate the measurement, and Welch's t test compares the two samples.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from scipy import stats

from vla_jax.core.errors import UserError
from vla_jax.eval.rate import Rate
from vla_jax.eval.record import Record

ALL = "all"
HEADER = ("split", "A", "B", "B - A", "95% interval", "only A", "only B", "p", "episodes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """How much more often B succeeds than A.

    Attributes:
      split: a split, or `all`.
      first: success rate of A, the mean of its runs, 0..1.
      second: that of B.
      low: lower end of the 95% interval of second - first; nan where nothing can be said.
      high: its upper end.
      p: two-sided p value of no difference; nan where nothing can be said.
      only_first: of two runs, episodes that A alone did; None of several.
      only_second: those that B alone did.
      episodes: fixed episodes.
      runs: runs of A and of B.
    """

    split: str
    first: float
    second: float
    low: float
    high: float
    p: float
    only_first: int | None
    only_second: int | None
    episodes: int
    runs: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values; what is not known is None."""
        values = dataclasses.asdict(self) | {"difference": self.second - self.first}
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in values.items()
        }

    def row(self) -> tuple[str, ...]:
        """Returns the cells under `HEADER`."""
        alone = ["-" if n is None else str(n) for n in (self.only_first, self.only_second)]
        known = not math.isnan(self.p)
        return (
            self.split,
            f"{self.first:.1%}",
            f"{self.second:.1%}",
            f"{self.second - self.first:+.1%}",
            f"{self.low:+.1%} to {self.high:+.1%}" if known else "one run",
            *alone,
            f"{self.p:.2g}" if known else "-",
            str(self.episodes),
        )


def compare(
    first: Mapping[str, Sequence[Record]], second: Mapping[str, Sequence[Record]]
) -> list[Difference]:
    """Compares runs on the same fixed episodes, per split and over all.

    Args:
      first: the runs of A: a name for messages -> its episodes.
      second: the runs of B.

    Raises:
      UserError: the runs did not play the same episodes, or an episode did not begin alike.
    """
    reference = check([*first.items(), *second.items()])
    sides = [_table(runs, reference) for runs in (first, second)]
    splits = np.array([record.split for record in reference])
    chosen = {split: splits == split for split in dict.fromkeys(splits.tolist())}
    if len(chosen) > 1:
        chosen[ALL] = np.ones(len(splits), bool)
    return [
        _difference(split, *(side[:, rows] for side in sides)) for split, rows in chosen.items()
    ]


def check(runs: Sequence[tuple[str, Sequence[Record]]]) -> Sequence[Record]:
    """Returns the episodes of the first run, after making sure that all runs played them.

    Raises:
      UserError: they did not, or an episode did not begin alike: another version of the
        environment, another image size.
    """
    (name, reference), *others = runs
    if not reference:
        raise UserError(f"{name}", expected="episodes to compare", found="none")
    wanted = {record.key: record for record in reference}
    for other, records in others:
        found = {record.key: record for record in records}
        missing = [key for key in wanted if key not in found]
        extra = [key for key in found if key not in wanted]
        if missing or extra:
            raise UserError(
                f"{name} and {other} did not play the same episodes",
                expected=f"the {len(wanted)} of {name}",
                found=f"{len(found)}, {len(missing)} missing and {len(extra)} others; the first of"
                f" them: {(missing + extra)[0]}",
                fix="Evaluate both with the same --env, --splits, --tasks, --episodes and --seed",
            )
        for key, record in wanted.items():
            if record.start != found[key].start:
                raise UserError(
                    f"{name} and {other}: the episode {key} began differently",
                    expected=f"the first observation {record.start}",
                    found=found[key].start,
                    fix="Evaluate both anew, with one version of the environment and one image"
                    " size",
                )
    return reference


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the two-sided p value of the exact McNemar test; 1 where no episode differs.

    Args:
      only_first: episodes that A alone did.
      only_second: episodes that B alone did.
    """
    total = only_first + only_second
    return float(stats.binomtest(only_second, total, 0.5).pvalue) if total else 1.0


def paired_interval(
    both: int, only_first: int, only_second: int, neither: int
) -> tuple[float, float]:
    """Returns the 95% interval of the difference of two paired rates, second - first.

    Source: Newcombe 1998, Statistics in Medicine 17:2635, method 10: Wilson's intervals of the two
    rates, combined with the correlation of the pairs, which is lowered for continuity.
    """
    total = both + only_first + only_second + neither
    one, two = (
        Rate.of([True] * k + [False] * (total - k)) for k in (both + only_first, both + only_second)
    )
    phi = _correlation(both, only_first, only_second, neither)
    difference = two.rate - one.rate

    def reach(down: float, up: float) -> float:
        return math.sqrt(max(0.0, down**2 - 2 * phi * down * up + up**2))

    low = reach(two.rate - two.low, one.high - one.rate)
    high = reach(two.high - two.rate, one.rate - one.low)
    return difference - low, difference + high


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Returns the phi of a table of pairs, as method 10 lowers it."""
    margins = math.prod(
        (both + only_first, only_second + neither, both + only_second, only_first + neither)
    )
    if not margins:
        return 0.0
    product = both * neither - only_first * only_second
    total = both + only_first + only_second + neither
    lowered = max(product - total / 2, 0) if product > 0 else product
    return lowered / math.sqrt(margins)


def welch(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Returns low, high and p of the difference of two means, second - first, by Welch's t test.

    The interval is of 95%, p two-sided. All are nan where a side has a single value or neither
    varies, which nothing can be said of.
    """
    if min(len(first), len(second)) < 2 or not (np.ptp(first) or np.ptp(second)):
        return math.nan, math.nan, math.nan
    with warnings.catch_warnings():  # of lost precision, where one side does not vary
        warnings.simplefilter("ignore", RuntimeWarning)
        test = cast(Any, stats.ttest_ind(second, first, equal_var=False))
    interval = test.confidence_interval(0.95)
    return float(interval.low), float(interval.high), float(test.pvalue)


def _table(runs: Mapping[str, Sequence[Record]], reference: Sequence[Record]) -> np.ndarray:
    """Returns bool [runs, episodes] in the order of the reference."""
    found = [{record.key: record.success for record in records} for records in runs.values()]
    return np.array([[run[record.key] for record in reference] for run in found], bool)


def _difference(split: str, first: np.ndarray, second: np.ndarray) -> Difference:
    """Compares bool [runs, episodes] of A and of B."""
    runs = (len(first), len(second))
    only_first = only_second = None
    if runs == (1, 1):
        one, two = first[0], second[0]
        only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
        both, neither = int((one & two).sum()), int((~one & ~two).sum())
        low, high = paired_interval(both, only_first, only_second, neither)
        p = mcnemar(only_first, only_second)
    else:
        low, high, p = welch(first.mean(axis=1).tolist(), second.mean(axis=1).tolist())
    return Difference(
        split=split,
        first=float(first.mean()),
        second=float(second.mean()),
        low=low,
        high=high,
        p=p,
        only_first=only_first,
        only_second=only_second,
        episodes=first.shape[1],
        runs=runs,
    )
