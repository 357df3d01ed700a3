"""The two contracts of the data path: a Frame is one example, a Batch is what the step eats."""

import dataclasses
import typing
from collections.abc import Mapping

import jax
import numpy as np

from vla_jax.core.arrays import Array, Bool, Float, Int, UInt8


@typing.no_type_check
@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """One example, before tokens: a robot time step, or a web question when `action` is None.

    Attributes:
      images: view name -> uint8 [y, x, c], 0..255 RGB.
      prefix: the instruction (robot) or the question (web).
      suffix: the answer of a web example; None for a robot frame.
      action: float32 [n, a] in robot units of the dataset's ActionSpec; None for a web example.
      dataset: the name of the source.
      episode: index of the episode (robot) or of the example (web) in its source.
      t: time step inside the episode, 0 for a web example.
    """

    images: Mapping[str, UInt8[np.ndarray, "y x 3"]]
    prefix: str
    suffix: str | None = None
    action: Float[np.ndarray, "n a"] | None = None
    dataset: str
    episode: int
    t: int = 0


@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch in the static layout [images | prefix slots | suffix slots].

    Prefix tokens fill their slots from the right, suffix tokens theirs from the left, so the last
    prefix token and the first suffix token are neighbours at the same place in every example.

    Attributes:
      images: uint8 [b, views, y, x, c], 0..255 RGB; normalised on the device.
      tokens: int32 [b, t], t = prefix slots + suffix slots; padding is id 0.
      prefix_length: int32 [b], valid prefix tokens (at the right end of the prefix slots).
      loss_mask: bool [b, t], True on supervised tokens (the valid suffix, its end token included).
      source: int32 [b], index of the mixture source the example came from.
    """

    images: UInt8[Array, "b w y x 3"]
    tokens: Int[Array, "b t"]
    prefix_length: Int[Array, " b"]
    loss_mask: Bool[Array, "b t"]
    source: Int[Array, " b"]
