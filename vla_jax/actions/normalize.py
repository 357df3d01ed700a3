"""Robot units <-> [-1, 1] by the quantiles of the dataset.

Source: OpenVLA's q01/q99 rule (openvla:prismatic/vla/datasets/rlds/utils/data_utils.py), with two
differences: the gripper is mapped like every range (OpenVLA leaves it at 0..1 and so wastes half of
its bins), and a dead dimension comes back as its constant.
"""

import numpy as np

from vla_jax.actions.spec import ActionSpec
from vla_jax.actions.statistics import Statistics
from vla_jax.core.arrays import Float

DEAD = 1e-8  # q99 - q01 below this is a dimension that never moves


class Normalizer:
    """Maps the numbers of one dataset to [-1, 1] and back; its bounds are computed once.

    Args:
      statistics: of the numbers.
      spec: of actions: dimensions in 0..1 (gripper, terminate) and integers take the spec's
        bounds, as the quantiles of a two-valued signal may coincide. None for proprioception.
      stretch: whether these dimensions are mapped to [-1, 1]; OpenVLA leaves them as they are.
    """

    def __init__(
        self, statistics: Statistics, spec: ActionSpec | None = None, *, stretch: bool = True
    ):
        low, high = np.asarray(statistics.q01), np.asarray(statistics.q99)
        if spec is not None:
            units = zip(spec.units, spec.discrete, strict=True)
            fixed = np.array([unit == "0..1" or discrete for unit, discrete in units])
            lowest, highest = (spec.low, spec.high) if stretch else (-1.0, 1.0)
            low, high = np.where(fixed, lowest, low), np.where(fixed, highest, high)
        self._low, self._width = low, high - low
        self._alive = self._width > DEAD
        self._divisor = np.where(self._alive, self._width, 1)

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return len(self._low)

    @property
    def bounds(self) -> tuple[Float[np.ndarray, " a"], Float[np.ndarray, " a"]]:
        """What -1 and 1 stand for, float64 in robot units; equal in a dead dimension."""
        return self._low, self._low + np.where(self._alive, self._width, 0)

    def normalize(self, values: Float[np.ndarray, "... a"]) -> Float[np.ndarray, "... a"]:
        """Maps robot units to [-1, 1], float32, clipped; a dead dimension (q01 = q99) maps to 0."""
        scaled = 2 * (values - self._low) / self._divisor - 1
        clipped = np.minimum(np.maximum(scaled, -1), 1)  # np.clip costs as much as all the rest
        return np.where(self._alive, clipped, 0).astype(np.float32)

    def unnormalize(self, x: Float[np.ndarray, "... a"]) -> Float[np.ndarray, "... a"]:
        """Maps [-1, 1] back to robot units, float32; a dead dimension returns its constant."""
        ranged = self._low + (x + 1) / 2 * self._width
        return np.where(self._alive, ranged, self._low).astype(np.float32)
