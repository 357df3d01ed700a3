"""Which token may come next, as a finite automaton: decoding walks it and can leave it nowhere.

One mechanism for action strings, for texts of variable length and for one after the other. Tables
are small whatever the vocabulary, as ids that are never told apart form a class.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vla_jax.core.arrays import Bool, Int

ILLEGAL = -1
NEVER = np.iinfo(np.int32).max // 2  # tokens to an end that cannot be reached


@dataclasses.dataclass(frozen=True)
class Automaton:
    """States, and what leads from one to the next.

    A token may stand where `step` has a state for its class, and where what is left to write after
    it, `need` of that state, has room in the `length`. State 0 is the end: only zeros follow.

    Attributes:
      classes: int32 [v], the class of each id.
      step: int32 [s, c], the state after a token of a class, ILLEGAL where it may not stand.
      need: int32 [s], fewest tokens from a state to where it may stop; 0 where it may be cut off.
      start: the first state.
      length: most tokens.
    """

    classes: Int[np.ndarray, " v"]
    step: Int[np.ndarray, "s c"]
    need: Int[np.ndarray, " s"]
    start: int
    length: int


def make(
    classes: Int[np.ndarray, " v"],
    step: Int[np.ndarray, "s c"],
    start: int,
    length: int,
    *,
    stops: Sequence[int] = (),
) -> Automaton:
    """Completes an automaton: the end, what each state needs, and no class twice.

    Args:
      classes: the class of each id.
      step: as in Automaton, without transitions of state 0, which is the end.
      start: the first state.
      length: most tokens.
      stops: states in which the text may be cut off.

    Returns:
      The automaton. Tokens that lead nowhere are illegal in it.
    """
    # Id 0 has a class of its own: what it may follow beside the end is what its class may.
    own = classes.copy()
    own[0] = step.shape[1]
    step = np.concatenate([step, step[:, [classes[0]]]], axis=1)
    step[0], step[0, -1] = ILLEGAL, 0
    need = np.full(len(step), NEVER, np.int32)
    need[[0, *stops]] = 0
    while True:
        reached = np.where(step >= 0, need[np.maximum(step, 0)], NEVER).min(axis=1) + 1
        better = np.minimum(need, np.minimum(reached, NEVER))
        if np.array_equal(better, need):
            break
        need = better.astype(np.int32)
    step = np.where((step >= 0) & (need[np.maximum(step, 0)] < NEVER), step, ILLEGAL)
    columns, merged = np.unique(step, axis=1, return_inverse=True)
    return Automaton(
        classes=merged.ravel()[own].astype(np.int32),
        step=columns.astype(np.int32),
        need=need,
        start=start,
        length=length,
    )


def positions(mask: Bool[np.ndarray, "n v"]) -> Automaton:
    """Returns the automaton of n tokens of which each has its own legal ids, row by row."""
    n, somewhere = len(mask), mask.any(axis=0)
    # Only ids that may stand somewhere are told apart: a vocabulary has many others.
    rows, found = np.unique(mask[:, somewhere], axis=1, return_inverse=True)
    rows = np.concatenate([np.zeros((n, 1), bool), rows], axis=1)
    classes = np.zeros(mask.shape[1], np.int32)
    classes[somewhere] = found.ravel() + 1
    step = np.full((n + 1, rows.shape[1]), ILLEGAL, np.int32)
    # State n - k has k tokens behind it; the last leads to the end, 0.
    for k, row in enumerate(rows):
        step[n - k, row] = n - k - 1
    return make(classes, step, n, n)


def text(legal: Bool[np.ndarray, " v"], eos: int, length: int) -> Automaton:
    """Returns the automaton of free text: `legal` ids until `eos`, cut off at `length` tokens."""
    classes = legal.astype(np.int32)
    classes[eos] = 2
    step = np.array([[ILLEGAL] * 3, [ILLEGAL, 1, 0]], np.int32)
    return make(classes, step, 1, length, stops=[1])


def then(first: Automaton, second: Automaton, length: int) -> Automaton:
    """Returns the automaton of one text and, where it ends, another.

    Args:
      first: must not be one that may be cut off.
      second: follows; its states keep their numbers, those of `first` lie behind them.
      length: most tokens of both.

    Raises:
      ValueError: `first` may be cut off.
    """
    if not first.need[1:].all():
        raise ValueError("nothing can follow a text that may be cut off anywhere")
    pairs = np.stack([first.classes, second.classes])
    kinds, classes = np.unique(pairs, axis=1, return_inverse=True)
    count = len(second.step)
    begin = first.step[1:][:, kinds[0]]
    joined = np.where(begin > 0, begin - 1 + count, np.where(begin == 0, second.start, ILLEGAL))
    step = np.concatenate([second.step[:, kinds[1]], joined])
    stops = np.flatnonzero(second.need == 0)[1:].tolist()
    start = first.start - 1 + count
    return make(classes.ravel().astype(np.int32), step, start, length, stops=stops)
