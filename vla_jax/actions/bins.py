"""[-1, 1] <-> bin index: `count` equal intervals, decoded to their centres.

256 bins are 256 intervals with 257 edges, so the error is at most half a bin, 1 / count, and the
bias is zero. (OpenVLA has 255 centres and RT-1 truncates to an edge grid.)
"""

import dataclasses

import numpy as np

from vla_jax.core.arrays import Float, Int
from vla_jax.core.errors import UserError

MIN_COUNT, MAX_COUNT = 2, 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class BinsConfig:
    """How a range is cut.

    Attributes:
      count: number of equal intervals of [-1, 1], 2..4096. RT-1, RT-2 and OpenVLA use 256.

    Raises:
      UserError: `count` is outside 2..4096.
    """

    count: int = 256

    def __post_init__(self) -> None:
        if not MIN_COUNT <= self.count <= MAX_COUNT:
            raise UserError(
                "config.bins.count", expected=f"{MIN_COUNT}..{MAX_COUNT}", found=self.count
            )


def encode(x: Float[np.ndarray, "..."], count: int) -> Int[np.ndarray, "..."]:
    """Returns the interval of each value: int32 in 0..count-1. Values are clipped to [-1, 1]."""
    index = np.floor((np.clip(x, -1, 1) + 1) / 2 * count)
    return np.minimum(index, count - 1).astype(np.int32)


def decode(index: Int[np.ndarray, "..."], count: int) -> Float[np.ndarray, "..."]:
    """Returns the centre of each interval, float32 in (-1, 1)."""
    return ((np.asarray(index) + 0.5) / count * 2 - 1).astype(np.float32)
