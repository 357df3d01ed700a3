"""The contracts of the data path: an Example is read, a Frame is looked at, a Batch is eaten."""

import dataclasses
import typing
from collections.abc import Mapping

import jax
import numpy as np

from vla_jax.core.arrays import Array, Bool, Float, Int, UInt8

# Prefix ids in whose place the model puts its image tokens and its state token, where these stand
# inside the text. No vocabulary has negative ids.
IMAGE_TOKEN, STATE_TOKEN = -1, -2


@typing.no_type_check
@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """What an example says and wants, without its images.

    Attributes:
      prefix: the instruction (robot) or the question (web).
      is_prompt: whether the prefix is the whole prompt, to be written as it is, without the words
        that are put around an instruction or a question.
      suffix: the answer of a web example; None for a robot frame.
      places: whether `<locNNNN>` in the answer stands for a place and not for its characters.
      action: float32 [n, a] in robot units of the dataset's ActionSpec: this step and the n - 1
        after it, the episode's last repeated beyond its end; None for a web example.
      action_mask: bool [n], False beyond the end of the episode; None for a web example.
      state: float32 [s], proprioception in robot units; None where there is none.
      plan: what the demonstrator was about to do, in words; None where it did not say.
      dataset: the name of the source.
      episode: index of the episode (robot) or of the example (web) in its source.
      t: time step inside the episode, 0 for a web example.
    """

    prefix: str
    is_prompt: bool = False
    suffix: str | None = None
    places: bool = False
    action: Float[np.ndarray, "n a"] | None = None
    action_mask: Bool[np.ndarray, " n"] | None = None
    state: Float[np.ndarray, " s"] | None = None
    plan: str | None = None
    dataset: str
    episode: int
    t: int = 0

    @property
    def name(self) -> str:
        """Says which example it is, for messages."""
        place = f"episode {self.episode} step {self.t}" if self.suffix is None else self.episode
        return f"{self.dataset} {place}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example(Target):
    """One example as it is stored.

    Attributes:
      images: view name -> encoded JPEG or PNG of the last w steps, oldest first; None where the
        episode had not begun. A view that the dataset lacks is absent.
    """

    images: Mapping[str, tuple[bytes | None, ...]]


@typing.no_type_check
@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame(Target):
    """One example as a camera gives it: the present step, decoded.

    Attributes:
      images: view name -> uint8 [y, x, c], 0..255 RGB, of any size.
    """

    images: Mapping[str, UInt8[np.ndarray, "y x 3"]]


@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch in the static layout [images | prefix slots | suffix slots].

    Prefix tokens fill their slots from the right, suffix tokens theirs from the left, so the last
    prefix token and the first suffix token are neighbours at the same place in every example.

    Attributes:
      images: uint8 [b, views, y, x, c], 0..255 RGB; normalised on the device. The views of the
        oldest step come first.
      image_mask: bool [b, views], False where a view is absent; its pixels are 0.
      tokens: int32 [b, t], t = prefix slots + suffix slots; padding is id 0.
      prefix_length: int32 [b], valid prefix tokens (at the right end of the prefix slots).
      loss_mask: bool [b, t], True on supervised tokens (the valid suffix, its end token included).
      source: int32 [b], index of the mixture source the example came from.
      actions: float32 [b, n, a] in [-1, 1], for heads that want numbers; None unless asked for.
      action_mask: bool [b, n, a], False beyond the episode, beyond the robot's dimensions and in
        web examples; None unless asked for.
      state: float32 [b, s] in [-1, 1]; None unless asked for.
      state_mask: bool [b, s], False where a source has no such dimension; None unless asked for.
      colour: float32 [b, 3, 4], to be applied to (R, G, B, 1) of every pixel in 0..255 before
        clipping to it; None where the host has done so, or nothing is to be done.
    """

    images: UInt8[Array, "b w y x 3"]
    image_mask: Bool[Array, "b w"]
    tokens: Int[Array, "b t"]
    prefix_length: Int[Array, " b"]
    loss_mask: Bool[Array, "b t"]
    source: Int[Array, " b"]
    actions: Float[Array, "b n a"] | None = None
    action_mask: Bool[Array, "b n a"] | None = None
    state: Float[Array, "b s"] | None = None
    state_mask: Bool[Array, "b s"] | None = None
    colour: Float[Array, "b 3 4"] | None = None
