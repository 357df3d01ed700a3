"""How a person wants a dataset to be read."""

import dataclasses
from typing import Literal

import numpy as np

from vla_jax.core.arrays import UInt8
from vla_jax.data.ingest.encoding import Encoder

Orientation = Literal["auto", "as_stored", "flipped", "rotated"]
ORIENTATION_NOTES: dict[Orientation, str] = {
    "as_stored": "kept as they are stored",
    "flipped": "turned over, top and bottom exchanged",
    "rotated": "turned by 180 degrees",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What applies to every format.

    Attributes:
      encoder: encodes images that the source stores as pixels or video.
      orientation: what to do to such images: nothing (`as_stored`), top and bottom exchanged
        (`flipped`), turned by 180 degrees (`rotated`), or what the format's convention is
        (`auto`).
      instruction: for episodes that have none.
      tolerance_s: how far from its time stamp a frame of a film may be, seconds, where frames
        cannot be counted; LeRobot's own default.
      check_statistics: whether numbers are compared with the statistics in the metadata.
    """

    encoder: Encoder = dataclasses.field(default_factory=Encoder)
    orientation: Orientation = "auto"
    instruction: str = ""
    tolerance_s: float = 1e-4
    check_statistics: bool = True

    def orientation_or(self, convention: Orientation) -> Orientation:
        """Returns the orientation, `convention` where it is `auto`."""
        return convention if self.orientation == "auto" else self.orientation


def orient(pixels: UInt8[np.ndarray, "y x 3"], how: Orientation) -> UInt8[np.ndarray, "y x 3"]:
    """Returns the image the right way up; a view."""
    if how == "flipped":
        return pixels[::-1]
    return pixels[::-1, ::-1] if how == "rotated" else pixels
