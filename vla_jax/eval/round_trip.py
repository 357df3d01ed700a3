"""What writing actions as tokens costs: the way there and back, dimension by dimension."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vla_jax.core.arrays import Float
from vla_jax.tokens.action_tokens import ActionTokens
from vla_jax.tokens.fast_tokens import FastTokens

HEADER = (
    *("dimension", "unit", "mean error", "worst", "clipped"),
    *("bins", "dead", "in use", "fullest bin"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dimension:
    """One dimension of a robot's actions.

    Attributes:
      name: of the dimension.
      unit: of the errors.
      mean: mean absolute difference of an action and what its tokens decode to.
      worst: the largest.
      clipped: share of actions that lie outside the range that is cut, 0..1.
      bins: how many tokens may stand for it; 0 where it has none of its own (FAST).
      dead: of these, how many stand for no action at all.
      in_use: how many equally used bins would be used as unevenly: the perplexity of their
        occupancy, from 1 to `bins`.
      fullest: share of actions in the bin that has most of them, 0..1.
    """

    name: str
    unit: str
    mean: float
    worst: float
    clipped: float
    bins: int = 0
    dead: int = 0
    in_use: float = 0.0
    fullest: float = 0.0

    def row(self) -> tuple[str, ...]:
        """Returns the cells under `HEADER`."""
        used = ("",) * 4
        if self.bins:
            shares = (f"{self.in_use:.1f}", f"{self.fullest:.1%}")
            used = (f"{self.bins:,}", f"{self.dead:,}", *shares)
        errors = (f"{self.mean:.3g}", f"{self.worst:.3g}", f"{self.clipped:.2%}")
        return (self.name, self.unit, *errors, *used)


def measure(
    tokens: ActionTokens | FastTokens, chunks: Float[np.ndarray, "b n a"]
) -> list[Dimension]:
    """Writes actions as tokens and reads them again.

    Args:
      tokens: how.
      chunks: actions in robot units, as examples hold them.
    """
    spec, flat = tokens.spec, chunks.reshape(-1, tokens.spec.size)
    back = np.concatenate([tokens.read(string) for string in tokens.write(chunks)])
    error = np.abs(back - flat)
    low, high = tokens.bounds
    slack = 1e-6 * (high - low)
    clipped = ((flat < low - slack) | (flat > high + slack)).mean(axis=0)
    return [
        Dimension(
            name=name,
            unit=spec.units[d],
            mean=float(error[:, d].mean()),
            worst=float(error[:, d].max()),
            clipped=float(clipped[d]),
            bins=len(count),
            dead=int((count == 0).sum()),
            in_use=_perplexity(count),
            fullest=float(count.max(initial=0) / len(flat)),
        )
        for d, (name, count) in enumerate(zip(spec.names, _occupancy(tokens, flat), strict=True))
    ]


def lengths(
    tokens: ActionTokens | FastTokens, chunks: Float[np.ndarray, "b n a"]
) -> tuple[float, int]:
    """Returns the mean and the largest number of tokens of an example's actions."""
    counts = list(map(len, tokens.write(chunks)))
    return float(np.mean(counts)), max(counts)


def _perplexity(count: np.ndarray) -> float:
    """Returns how many equally frequent things would be as uneven; 0 of nothing."""
    shares = count[count > 0] / max(count.sum(), 1)
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def _occupancy(
    tokens: ActionTokens | FastTokens, actions: Float[np.ndarray, "i a"]
) -> Sequence[np.ndarray]:
    """Returns how many actions fall into each bin that a dimension has; FAST has none."""
    if isinstance(tokens, FastTokens):
        return [np.zeros(0, int)] * tokens.spec.size
    index = tokens.bins(actions)
    return [
        np.bincount(index[:, d], minlength=len(legal))
        for d, legal in enumerate(tokens.legal_bins())
    ]
