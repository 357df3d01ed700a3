"""Parts of a split by episode: `train[:95%]`, `train[10:-20]`, as TFDS reads them.

Source: https://www.tensorflow.org/datasets/splits (rounding `closest`).
"""

import dataclasses
import re

from vla_jax.core.errors import UserError

_SPELLING = re.compile(r"([\w-]+)(?:\[(-?[\d_.]*%?):(-?[\d_.]*%?)\])?")


@dataclasses.dataclass(frozen=True)
class Part:
    """A run of episodes of a split.

    Attributes:
      text: how it was written, for messages.
      split: name of the split.
      start: where it begins, as (number, is_percent); None at the beginning. A negative number
        counts from the end.
      stop: where it ends, likewise.
    """

    text: str
    split: str
    start: tuple[float, bool] | None = None
    stop: tuple[float, bool] | None = None

    def episodes(self, count: int, *, dataset: str) -> range:
        """Returns the episodes of the part.

        Args:
          count: number of episodes of the whole split.
          dataset: for messages.

        Raises:
          UserError: the bounds lie beyond the split, or enclose no episode.
        """
        start = 0 if self.start is None else _absolute(self.start, count)
        stop = count if self.stop is None else _absolute(self.stop, count)
        if not 0 <= start <= count or not 0 <= stop <= count or start >= stop:
            raise UserError(
                f"dataset {dataset}, split {self.text!r}",
                expected=f"a part of the {count} episodes of {self.split!r}",
                found=f"episodes {start} to {stop}",
                fix="Choose bounds that enclose some",
            )
        return range(start, stop)


def parse(text: str) -> Part:
    """Parses a split and its part.

    Args:
      text: e.g. `train`, `train[:95%]`, `train[-100:]`.

    Raises:
      UserError: it is not of that form, or a percentage is not in -100..100.
    """
    match = _SPELLING.fullmatch(text.strip())
    if match is None:
        raise UserError(
            f"split {text!r}",
            expected="a form such as train, train[:95%], train[95%:] or train[100:200]",
            fix="Write one split; several are several sources of the mixture",
        )
    name, start, stop = match.groups()
    return Part(text.strip(), name, _bound(start, text), _bound(stop, text))


def _bound(spelled: str | None, text: str) -> tuple[float, bool] | None:
    if not spelled:
        return None
    is_percent = spelled.endswith("%")
    try:
        value = float(spelled[:-1]) if is_percent else int(spelled)
    except ValueError as error:
        raise UserError(
            f"split {text!r}", expected="bounds such as 95% or 100", found=spelled
        ) from error
    if is_percent and abs(value) > 100:
        raise UserError(f"split {text!r}", expected="percentages in -100..100", found=spelled)
    return value, is_percent


def _absolute(bound: tuple[float, bool], count: int) -> int:
    value, is_percent = bound
    number = round(value * count / 100) if is_percent else int(value)
    # -0% is the end of nothing: TFDS, too, takes it for 0.
    return number + count if number < 0 else number
