"""Robot units <-> [-1, 1] by the quantiles of the dataset.

Source: OpenVLA's q01/q99 rule (openvla:prismatic/vla/datasets/rlds/utils/data_utils.py), with two
differences: the gripper is mapped like every range (OpenVLA leaves it at 0..1 and so wastes half of
its bins), and a dead dimension comes back as its constant.
"""

import numpy as np

from vla_jax.actions.spec import ActionSpec
from vla_jax.actions.statistics import Statistics
from vla_jax.core.arrays import Float

_DEAD = 1e-8  # q99 - q01 below this is a dimension that never moves


def _bounds(spec: ActionSpec, statistics: Statistics) -> tuple[np.ndarray, np.ndarray]:
    """Gripper ranges take the spec's bounds (quantiles of a two-valued signal may coincide)."""
    fixed = np.array([unit == "0..1" for unit in spec.units])
    low = np.where(fixed, spec.low, statistics.q01)
    high = np.where(fixed, spec.high, statistics.q99)
    return low, high


def normalize(
    action: Float[np.ndarray, "... a"], spec: ActionSpec, statistics: Statistics
) -> Float[np.ndarray, "... a"]:
    """Maps robot units to [-1, 1], clipped; a dead dimension (q01 = q99) maps to 0."""
    return _scale(action, *_bounds(spec, statistics))


def normalize_state(
    state: Float[np.ndarray, "... s"], statistics: Statistics
) -> Float[np.ndarray, "... s"]:
    """Maps proprioception to [-1, 1] by its quantiles, as `normalize` does with an action."""
    return _scale(state, np.asarray(statistics.q01), np.asarray(statistics.q99))


def _scale(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    alive = high - low > _DEAD
    scaled = 2 * (values - low) / np.where(alive, high - low, 1) - 1
    return np.where(alive, np.clip(scaled, -1, 1), 0).astype(np.float32)


def unnormalize(
    x: Float[np.ndarray, "... a"], spec: ActionSpec, statistics: Statistics
) -> Float[np.ndarray, "... a"]:
    """Maps [-1, 1] back to robot units; a dead dimension returns its constant."""
    low, high = _bounds(spec, statistics)
    alive = high - low > _DEAD
    return np.where(alive, low + (x + 1) / 2 * (high - low), low).astype(np.float32)
