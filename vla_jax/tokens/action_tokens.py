"""Robot units <-> token ids: which vocabulary rows stand for the action bins, and the way there.

Schemes: `integers` takes the token of the integer k for bin k, as PaLI-X in RT-2 (section 3.2);
`overwrite` gives existing rows a new meaning, as PaLM-E there and OpenVLA; `extend` adds rows; and
`fast` has no bins (`tokens/fast_tokens.py`). Bin k is the k-th id of the map, and the map travels
with the checkpoint.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from vla_jax.actions import bins
from vla_jax.actions.normalize import Normalizer
from vla_jax.actions.spec import ActionSpec
from vla_jax.actions.statistics import Statistics
from vla_jax.core.arrays import Bool, Float, Int
from vla_jax.core.errors import UserError
from vla_jax.tokens import automaton
from vla_jax.tokens.automaton import Automaton
from vla_jax.tokens.fast import FastConfig, Rows
from vla_jax.tokens.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionTokensConfig:
    """Where action bins live in the vocabulary.

    Attributes:
      scheme: `integers`, where the tokenizer has them as single tokens; `overwrite` existing rows;
        or `extend` the vocabulary by one row per bin.
      rows: which rows `overwrite` takes: the first `<locNNNN>` tokens, whose web meaning
        (a place in the image) is a number line too; the `last` ids of the vocabulary; the
        `least_used` by the texts that the run looks through, which are all of its own distinct
        ones and a sample of very large web sets (of equally rare ones the last, which byte-pair
        encoding found last); or those of `openvla`, which are the last ones before added tokens,
        counted downwards.
      on_collision: what it does where the rows that are overwritten are ones that the data uses:
        a note at the start (`warn`), or nothing is started (`error`). `<locNNNN>` and the integers
        are shared on purpose.
      fast: the tokens of `scheme=fast`.
      initialization: how action rows start: `none` leaves the model's own; `smooth` makes
        neighbouring bins neighbours (sines of several scales), which small models need to learn
        a number line; `mean` puts every row at the mean embedding (for `extend`).
    """

    scheme: Literal["integers", "overwrite", "extend", "fast"] = "overwrite"
    rows: Rows = "loc"
    initialization: Literal["none", "smooth", "mean"] = "none"
    on_collision: Literal["warn", "error"] = "warn"
    fast: FastConfig = FastConfig()

    def __post_init__(self) -> None:
        if self.scheme == "fast" and self.initialization == "smooth":
            raise UserError(
                "config.action_tokens.initialization with scheme=fast",
                expected="mean or none: its tokens are no number line",
                found="smooth",
            )


def choose_ids(
    config: ActionTokensConfig,
    tokenizer: Tokenizer,
    count: int,
    used: Mapping[int, int] | None = None,
) -> tuple[Tokenizer, tuple[int, ...]]:
    """Picks the id of every bin.

    Args:
      config: the scheme.
      tokenizer: the vocabulary.
      count: number of bins, or of tokens that FAST has.
      used: id -> how often the texts of the run use it, for `least_used`.

    Returns:
      The tokenizer (with new tokens under `extend`) and `count` ids, bin 0 first.

    Raises:
      UserError: the vocabulary cannot hold `count` bins under this scheme.
    """
    if config.scheme == "integers":
        return tokenizer, _integers(tokenizer, count)
    rows = config.fast.rows if config.scheme == "fast" else config.rows
    if config.scheme == "extend" or rows == "new":
        names = [f"<act{k:04d}>" for k in range(count)]
        tokenizer = tokenizer.extended(names)
        return tokenizer, tuple(i for i in map(tokenizer.id, names) if i is not None)
    held = _existing(rows, tokenizer, count, used or {})
    if len(held) < count:
        name, field, holder, again = "bins", "bins.count", "rows", "scheme=extend"
        if config.scheme == "fast":
            name, field = "tokens", "action_tokens.fast.size"
            holder, again = "fast.rows", "fast.rows=new"
        raise UserError(
            f"config.{field}: more {name} than rows to overwrite",
            expected=f"at most {len(held)} (config.action_tokens.{holder}={rows})",
            found=count,
            fix=f"Lower config.{field} or set --config.action_tokens.{again}",
        )
    return tokenizer, tuple(held)


def _existing(rows: Rows, tokenizer: Tokenizer, count: int, used: Mapping[int, int]) -> list[int]:
    """Returns the first `count` of the rows to overwrite, or all there are."""
    if rows == "loc":
        ids = (tokenizer.id(f"<loc{k:04d}>") for k in range(count))
        return [i for i in ids if i is not None]
    barred = tokenizer.special.ids
    if rows == "openvla":
        return [i for i in range(tokenizer.base_size - 1, -1, -1) if i not in barred][:count]
    free = [i for i in range(tokenizer.size) if i not in barred]
    if rows == "least_used":
        return sorted(sorted(free, key=lambda i: (used.get(i, 0), -i))[:count])
    return free[-count:]


def _integers(tokenizer: Tokenizer, count: int) -> tuple[int, ...]:
    ids = [tokenizer.encode(str(k)) for k in range(count)]
    split = [
        k for k, tokens in enumerate(ids) if len(tokens) != 1 or tokenizer.special.unk in tokens
    ]
    if split:
        pieces = [tokenizer.token(i) for i in ids[split[0]]]
        raise UserError(
            f"config.action_tokens.scheme=integers: {len(split)} of the integers below {count} are "
            "no single tokens of this tokenizer",
            expected=f"one token for {split[0]}",
            found=f"{len(pieces)}: {' '.join(pieces)}",
            fix="Set --config.action_tokens.scheme=overwrite",
        )
    return tuple(tokens[0] for tokens in ids)


class ActionTokens:
    """Encodes actions in robot units as token ids and back, for one dataset's action space.

    Args:
      spec: the action space.
      statistics: of the dataset's actions, robot units.
      ids: the id of every bin, bin 0 first.
      cut: where the bins lie; None cuts every range into `len(ids)` equal ones.

    Raises:
      UserError: a dimension has more values or bins than there are ids.
    """

    def __init__(
        self,
        spec: ActionSpec,
        statistics: Statistics,
        ids: tuple[int, ...],
        cut: bins.Bins | None = None,
    ):
        self.spec, self.statistics, self.ids = spec, statistics, ids
        self.cut = bins.Bins((len(ids),) * spec.size) if cut is None else cut
        self._ids = np.asarray(ids, np.int32)
        self._bin_of = np.full(max(ids) + 1, -1, np.int32)
        self._bin_of[self._ids] = np.arange(len(ids))
        self._discrete = np.asarray(spec.discrete)
        self._low, self._high = np.asarray(spec.low), np.asarray(spec.high)
        self._normalizer = normalizer(statistics, spec, self.cut.convention)
        for name, legal in zip(spec.names, self.legal_bins(), strict=True):
            if len(legal) > len(ids):
                raise UserError(
                    f"action space, dimension {name!r}",
                    expected=f"at least {len(legal)} bins, one per value",
                    found=len(ids),
                    fix="Raise config.bins.count",
                )

    @property
    def count(self) -> int:
        """The most bins that a dimension has."""
        return len(self.ids)

    @property
    def bounds(self) -> tuple[Float[np.ndarray, " a"], Float[np.ndarray, " a"]]:
        """What -1 and 1 stand for in robot units, see `Normalizer.bounds`."""
        return self._normalizer.bounds

    def bins(self, action: Float[np.ndarray, "... a"]) -> Int[np.ndarray, "... a"]:
        """Returns the bin of every dimension; a discrete value k is bin k."""
        ranged = self.cut.encode(self._normalizer.normalize(action))
        if not self._discrete.any():
            return ranged
        exact = np.rint(np.clip(action, self._low, self._high) - self._low).astype(np.int32)
        return np.where(self._discrete, exact, ranged)

    def encode(self, action: Float[np.ndarray, "... a"]) -> Int[np.ndarray, "... a"]:
        """Returns token ids, int32, of actions in robot units. Values out of range are clipped."""
        return self._ids[self.bins(action)]

    def decode(self, tokens: Int[np.ndarray, "... a"]) -> Float[np.ndarray, "... a"]:
        """Returns actions, float32 in robot units: bin centres, within half a bin of the source.

        Raises:
          UserError: a token is no action token.
        """
        tokens = np.asarray(tokens)
        known = (tokens >= 0) & (tokens < len(self._bin_of))
        index = np.where(known, self._bin_of[np.where(known, tokens, 0)], -1)
        if (index < 0).any():
            raise UserError(
                "action tokens", expected="ids of action bins", found=np.ravel(tokens).tolist()
            )
        ranged = self._normalizer.unnormalize(self.cut.decode(index))
        return np.where(self._discrete, index + self._low, ranged).astype(np.float32)

    def write(self, actions: Float[np.ndarray, "b n a"]) -> list[Int[np.ndarray, " t"]]:
        """Returns the token string of each chunk of actions, int32 [n * a]."""
        return list(self.encode(actions).reshape(len(actions), -1))

    def read(self, string: Int[np.ndarray, " t"]) -> Float[np.ndarray, "n a"]:
        """Returns the chunk that a token string stands for.

        Raises:
          UserError: a token is no action token.
        """
        return self.decode(string.reshape(-1, self.spec.size))

    def supervised(self, inside: Bool[np.ndarray, "b n"]) -> list[Bool[np.ndarray, " t"]]:
        """Returns which tokens of the strings are of steps `inside` their episodes."""
        return list(np.repeat(inside, self.spec.size, axis=1))

    def automaton(self, vocabulary: int, chunk: int, room: int) -> Automaton:
        """Returns what may be written: `chunk` actions, so that `terminate` is a flag.

        RT-2 (section 3.2) samples robot prompts among valid action tokens; here the set is per
        position. Training stays full-vocabulary.

        Raises:
          UserError: there is no `room` for so many tokens.
        """
        mask = self.legal(vocabulary)
        if chunk * len(mask) > room:
            raise no_room(chunk * len(mask), room)
        return automaton.positions(np.tile(mask, (chunk, 1)))

    def legal(self, vocabulary: int) -> Bool[np.ndarray, "a v"]:
        """Returns which ids may stand for each dimension."""
        mask = np.zeros((self.spec.size, vocabulary), bool)
        for row, legal in zip(mask, self.legal_bins(), strict=True):
            row[self._ids[legal.start : legal.stop]] = True
        return mask

    def legal_bins(self) -> list[range]:
        """Returns the bins a decoder may choose, one range per dimension."""
        return [
            range(int(high - low) + 1) if discrete else range(count)
            for discrete, low, high, count in zip(
                self.spec.discrete, self.spec.low, self.spec.high, self.cut.counts, strict=True
            )
        ]


def normalizer(statistics: Statistics, spec: ActionSpec, convention: bins.Convention) -> Normalizer:
    """Returns what maps actions to the range that bins of a convention cut."""
    return Normalizer(statistics, spec, stretch=convention != "openvla")


def no_room(needed: int, room: int) -> UserError:
    """Returns the error that a suffix has too few slots for an action."""
    return UserError(
        "config.sequence.suffix is too short for an action",
        expected=f"room for {needed} tokens beside what else it holds",
        found=f"room for {room}",
        fix="Raise config.sequence.suffix",
    )


def smooth_rows(count: int, width: int, seed: int) -> Float[np.ndarray, "v d"]:
    """Embedding rows for `count` ordered bins such that near bins are near: float32, unit norm.

    Sines and cosines of the bin's place on [0, 1] at frequencies log-uniform in 0.3..24.
    """
    rng = np.random.default_rng([seed, count, width])
    frequency = np.exp(rng.uniform(np.log(0.3), np.log(24), (1, width // 2)))
    angle = np.pi * np.linspace(0, 1, count)[:, None] * frequency
    rows = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
