"""[-1, 1] <-> bin index: `count` equal intervals, decoded to their centres.

256 bins are 256 intervals with 257 edges, so the error is at most half a bin, 1 / count, and the
bias is zero.

The convention of OpenVLA's checkpoints (openvla:prismatic/vla/action_tokenizer.py): `count` edges
from -1 to 1, so one centre less than there are bins; the last bin is +1 alone, and decodes to the
last centre.
"""

import dataclasses
from typing import Literal

import numpy as np

from vla_jax.core.arrays import Float, Int
from vla_jax.core.errors import UserError

Convention = Literal["uniform", "openvla"]
MIN_COUNT, MAX_COUNT = 2, 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class BinsConfig:
    """How a range is cut.

    Attributes:
      count: number of bins, 2..4096. RT-1, RT-2 and OpenVLA use 256.
      convention: `uniform` cuts [-1, 1] into equal intervals; `openvla` is that of OpenVLA's
        checkpoints, for those alone: the gripper is not stretched from 0..1 to [-1, 1] either.

    Raises:
      UserError: `count` is outside 2..4096.
    """

    count: int = 256
    convention: Convention = "uniform"

    def __post_init__(self) -> None:
        if not MIN_COUNT <= self.count <= MAX_COUNT:
            raise UserError(
                "config.bins.count", expected=f"{MIN_COUNT}..{MAX_COUNT}", found=self.count
            )


def encode(
    x: Float[np.ndarray, "..."], count: int, convention: Convention = "uniform"
) -> Int[np.ndarray, "..."]:
    """Returns the bin of each value: int32 in 0..count-1. Values are clipped to [-1, 1]."""
    if convention == "openvla":
        return (np.digitize(np.clip(x, -1, 1), np.linspace(-1, 1, count)) - 1).astype(np.int32)
    index = np.floor((np.clip(x, -1, 1) + 1) / 2 * count)
    return np.minimum(index, count - 1).astype(np.int32)


def decode(
    index: Int[np.ndarray, "..."], count: int, convention: Convention = "uniform"
) -> Float[np.ndarray, "..."]:
    """Returns the centre of each bin, float32 in (-1, 1)."""
    if convention == "openvla":
        index, count = np.minimum(index, count - 2), count - 1
    return ((np.asarray(index) + 0.5) / count * 2 - 1).astype(np.float32)
