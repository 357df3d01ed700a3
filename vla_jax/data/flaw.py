"""Something in a dataset that nothing can be trained on: what kind of thing, where, and why."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from vla_jax.core.errors import TextError, UserError
from vla_jax.data.episode_walk import LeftOut

Kind = Literal["file", "record", "episode", "picture", "text", "value"]

HOW_TO_SKIP = "leave it out with --config.loader.on_corrupt=skip"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flaw:
    """One bad item.

    Attributes:
      kind: what is bad: the rest of a `file`, a `record` (or line, or tar member), an `episode`, a
        `picture`, a `text` with all examples that have it, or a `value` of one step.
      place: where it is, or the first example that has it: dataset, shard, episode and step.
      reason: what is wrong with it.
      key: tells bad items apart.
      needed: tokens that a text needs which is too long, 0 for anything else.
    """

    kind: Kind
    place: str
    reason: str
    key: str = ""
    needed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.key or self.place)

    def to_json(self) -> dict[str, Any]:
        """Returns kind, place and reason as JSON values."""
        return {"kind": self.kind, "place": self.place, "reason": self.reason}


def of_example(error: UserError, dataset: str, place: str, kind: Kind) -> Flaw:
    """Returns the flaw for which an example cannot be used.

    A text is one item, whatever number of examples has it.

    Args:
      error: what was raised.
      dataset: its source.
      place: where the example is.
      kind: what was tried, where it is no text.
    """
    if isinstance(error, TextError):
        key = f"{dataset}\0{error.text}"
        return Flaw(kind="text", place=place, reason=str(error), key=key, needed=error.needed)
    return Flaw(kind=kind, place=place, reason=str(error))


def of_left_out(left: LeftOut) -> Flaw:
    """Returns the flaw for which the index of a dataset lacks records."""
    place, _, reason = left.reason.partition(": ")  # dataset, shard and episode
    empty = "the episode is empty" in reason
    kind: Kind = "episode" if empty else "record" if left.count == 1 else "file"
    return Flaw(kind=kind, place=place, reason=reason)


def refuse(flaws: Sequence[Flaw]) -> UserError:
    """Returns the error that flaws may not be skipped; names the first of them."""
    first, more = flaws[0], len(flaws) - 1
    # A file and a value say themselves where they are.
    place = "" if first.place in first.reason else f"{first.place}: "
    return UserError(
        f"{place}{first.reason.removesuffix('.')}" + f" (and {more} more like it)" * (more > 0),
        fix=f"Mend it, or {HOW_TO_SKIP}",
    )
