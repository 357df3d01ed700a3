"""Robot units <-> [-1, 1] as OpenVLA-OFT has it, for policies that its own code is to run.

Sources: openvla-oft:experiments/robot/openvla_utils.py (`normalize_proprio`),
prismatic/extern/hf/modeling_prismatic.py (`_unnormalize_actions`),
prismatic/vla/datasets/rlds/utils/data_utils.py. `normalize.Normalizer` is what runs of our own use:
it maps the gripper like every range, and a dead dimension to 0 everywhere.
"""

import dataclasses
from typing import Literal

import numpy as np

from vla_jax.core.arrays import Bool, Float

_EPSILON = 1e-8  # added to every range

BoundsKind = Literal["q99", "minmax"]  # BOUNDS_Q99 (LIBERO, Bridge) and BOUNDS (ALOHA) there


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """What -1 and 1 stand for.

    Attributes:
      low: float64 [a], robot units.
      high: float64 [a].
      mask: bool [a], False for a dimension that stays as it is (a gripper in 0..1).
    """

    low: Float[np.ndarray, " a"]
    high: Float[np.ndarray, " a"]
    mask: Bool[np.ndarray, " a"]

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return len(self.low)

    def normalize(
        self, values: Float[np.ndarray, "... a"], *, training: bool = False
    ) -> Float[np.ndarray, "... a"]:
        """Maps robot units to [-1, 1], float64, clipped.

        Args:
          values: robot units.
          training: whether a dimension without a range becomes 0, as it does in training alone; a
            policy that acts is given what the range of 1e-8 makes of it.
        """
        scaled = 2 * (values - self.low) / (self.high - self.low + _EPSILON) - 1
        if training:
            scaled = np.where(self.low == self.high, 0, scaled)
        return np.where(self.mask, np.clip(scaled, -1, 1), values)

    def unnormalize(self, x: Float[np.ndarray, "... a"]) -> Float[np.ndarray, "... a"]:
        """Maps back to robot units, float64; nothing is clipped."""
        ranged = 0.5 * (x + 1) * (self.high - self.low + _EPSILON) + self.low
        return np.where(self.mask, ranged, x)
