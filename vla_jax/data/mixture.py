"""Which example comes when: a deterministic, stratified stream of (source, index) pairs.

Example k of the stream is a pure function of (seed, k): every source is shuffled anew each epoch,
and the sources interleave so that any stretch of the stream holds its share of each.
"""

import dataclasses

import grain
import numpy as np

from vla_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """The ratio of the streams.

    Attributes:
      robot_share: share of robot examples in every batch, 0..1; the rest are web questions.
        RT-2 uses about 0.5 (PaLI-X) and 0.66 (PaLM-E), by sampling and not by loss weights.
    """

    robot_share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.robot_share <= 1:
            raise UserError("config.mixture.robot_share", expected="0..1", found=self.robot_share)


def stream(sizes: tuple[int, ...], shares: tuple[float, ...], seed: int) -> grain.MapDataset:
    """Returns the endless stream of int64 [2] = (source, index in source).

    Args:
      sizes: number of examples of each source.
      shares: share of each source; 0 leaves a source out.
      seed: the seed of all shuffles.
    """
    parts = [
        grain.MapDataset.range(size)
        .seed(seed * len(sizes) + number)
        .shuffle()
        .repeat()
        .map(_Tag(number))
        for number, (size, share) in enumerate(zip(sizes, shares, strict=True))
        if share > 0
    ]
    return grain.MapDataset.mix(parts, [share for share in shares if share > 0])


class _Tag(grain.transforms.Map):
    """Index -> (source, index)."""

    def __init__(self, source: int):
        self._source = source

    def map(self, element: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns int64 [2]."""
        return np.array([self._source, element], np.int64)
