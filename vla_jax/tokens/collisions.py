"""Do action tokens mean something else in the run's own texts? Found by writing all of these."""

import collections
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

from vla_jax.core.errors import UserError
from vla_jax.tokens.action_tokens import ActionTokensConfig
from vla_jax.tokens.tokenizer import Tokenizer

_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Usage:
    """How the texts of one dataset use the vocabulary.

    Attributes:
      count: of each id that occurs, over the distinct texts.
      example: one text for each of them.
    """

    count: Mapping[int, int]
    example: Mapping[int, str]


@dataclasses.dataclass(frozen=True)
class Collision:
    """An action token that a dataset writes as text.

    Attributes:
      token: its name in the vocabulary.
      dataset: whose text.
      count: how often, over the distinct texts.
      example: such a text.
    """

    token: str
    dataset: str
    count: int
    example: str

    def __str__(self) -> str:
        """Returns `'ing' (questions, 12 times, such as 'moving on')`."""
        times = "once" if self.count == 1 else f"{self.count} times"
        return f"{self.token!r} ({self.dataset}, {times}, such as {self.example!r})"


def usage(tokenizer: Tokenizer, texts: Iterable[str], *, places: bool = False) -> Usage:
    """Counts the tokens of texts; `places` as in `Tokenizer.encode`."""
    count: collections.Counter[int] = collections.Counter()
    example: dict[int, str] = {}
    texts = sorted(texts)
    for text, ids in zip(texts, tokenizer.encode_all(texts, places=places), strict=True):
        count.update(ids)
        for token in ids:
            example.setdefault(token, text)
    return Usage(count, example)


def find(ids: Collection[int], tokenizer: Tokenizer, used: Mapping[str, Usage]) -> list[Collision]:
    """Returns the action tokens that texts use, the most frequent first.

    Args:
      ids: of the action tokens.
      tokenizer: knows their names.
      used: dataset -> how its texts use the vocabulary.
    """
    found = [
        Collision(tokenizer.token(token), name, usage.count[token], usage.example[token])
        for name, usage in used.items()
        for token in ids
        if token in usage.count
    ]
    return sorted(found, key=lambda collision: -collision.count)


def report(config: ActionTokensConfig, collisions: Sequence[Collision]) -> str | None:
    """Returns what there is to say about collisions, None for nothing.

    Raises:
      UserError: rows with another meaning are overwritten, and `on_collision` is `error`.
    """
    if not collisions:
        return None
    named = ", ".join(map(str, collisions[:_NAMED]))
    more = len(collisions) - _NAMED
    named += f" and {more} more" if more > 0 else ""
    rows = config.fast.rows if config.scheme == "fast" else config.rows
    shared = {"integers": "numbers", "overwrite": "places in pictures" if rows == "loc" else None}
    if (meaning := shared.get(config.scheme)) is not None:
        return (
            f"{len(collisions)} action tokens also stand for {meaning} in the data: one number "
            "line for both, as meant"
        )
    what = f"{len(collisions)} action tokens overwrite tokens that the data uses: {named}"
    if config.scheme == "fast":
        fix = "Set --config.action_tokens.fast.rows=least_used, or fast.rows=new"
    else:
        fix = "Set --config.action_tokens.rows=least_used, or scheme=extend"
    if config.on_collision == "error":
        raise UserError(what, fix=fix)
    return f"warning: {what}. {fix}"
