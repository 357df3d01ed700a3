"""RT-1's own actions <-> their 11 tokens: mode, arm, gripper, base.

Source: open_x_embodiment:models/rt1.py. A value of [low, high] is truncated to a token, and a token
k means low + k / (vocabulary - 1) (high - low), as with the bins of convention `rt1`. `Bins` does
not do for these: it takes values of [-1, 1], and the way there rounds some into a neighbouring
token. Actions of other robots are coded with `Bins`.
"""

import math
from collections.abc import Mapping

import numpy as np

from vla_jax.core.arrays import Float, Int

MODES = 3  # terminate the episode, move arm and gripper, move the base
MODE = "terminate_episode"
_Range = tuple[float, float]
_ONE = (-1.0, 1.0)  # of `world_vector` in RT-1; +-2 in RT-1-X
# Field, dimensions, range, behind `world_vector`.
_FIELDS = (
    ("rotation_delta", 3, (-math.pi / 2, math.pi / 2)),
    ("gripper_closedness_action", 1, _ONE),
    ("base_displacement_vertical_rotation", 1, (-math.pi, math.pi)),
    ("base_displacement_vector", 2, _ONE),
)


def encode(
    actions: Mapping[str, np.ndarray], vocabulary: int, world: _Range = _ONE
) -> Int[np.ndarray, "... 11"]:
    """Returns the tokens of actions, int32. Values are clipped.

    Args:
      actions: by field: modes one-hot [..., 3], the others float32 [..., dimensions].
      vocabulary: values of a token.
      world: the range of `world_vector`, metres.
    """
    tokens = [np.argmax(actions[MODE], axis=-1)[..., None]]
    for name, _, (low, high) in _fields(world):
        value = np.clip(np.asarray(actions[name], np.float32), low, high)
        tokens.append(np.trunc((value - low) / (high - low) * (vocabulary - 1)))
    return np.concatenate(tokens, axis=-1).astype(np.int32)


def decode(
    tokens: Int[np.ndarray, "... 11"], vocabulary: int, world: _Range = _ONE
) -> dict[str, Float[np.ndarray, "... k"]]:
    """Returns actions by field, float32; modes one-hot, int32, all zero for a token that is none.

    Args:
      tokens: as `encode` returns them.
      vocabulary: values of a token.
      world: as in `encode`.
    """
    tokens = np.asarray(tokens)
    out = {MODE: (tokens[..., :1] == np.arange(MODES)).astype(np.int32)}
    start = 1
    for name, size, (low, high) in _fields(world):
        share = tokens[..., start : start + size].astype(np.float32) / (vocabulary - 1)
        out[name] = share * (high - low) + low
        start += size
    return out


def settle(mode: Int[np.ndarray, "... 3"]) -> Int[np.ndarray, "... 3"]:
    """Returns modes with the last one, the base, where there was none, as RT-1's policy does."""
    none = ~np.any(mode, axis=-1, keepdims=True)
    return np.where(none, np.arange(MODES) == MODES - 1, mode).astype(np.int32)


def _fields(world: _Range) -> tuple[tuple[str, int, _Range], ...]:
    return (("world_vector", 3, world), *_FIELDS)
