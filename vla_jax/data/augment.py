"""Random crop and colour, one draw per example: every view and every step of it look alike.

The four colour operations are one affine map of RGB, so that they cost a single pass over the
image, on the host or on the device. Brightness and contrast act on RGB, saturation and hue on the
chroma plane of YIQ, without the clipping in between that image libraries do.
"""

import dataclasses
from typing import Annotated

import numpy as np

from vla_jax.core.arrays import Float, Int
from vla_jax.core.fields import Checked, Range, Share
from vla_jax.data.stream import uniform

_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_CROP, _COLOUR = 1, 2  # salts: switching one off does not change the other

Kept = Annotated[float, Range(0, 1, above=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig(Checked):
    """How far images are changed at random; the defaults change nothing.

    Attributes:
      crop: smallest share of the image's area that is kept, above 0; 1 keeps all of it. The aspect
        ratio is the image's. OpenVLA takes 0.9, Octo 0.8.
      centre: share of the area in the middle that a policy looks at when it acts, where nothing is
        drawn; 1 is all of it. OpenVLA's takes 0.9 in LIBERO, what it was least trained to see.
      brightness: largest shift, as a share of white.
      contrast: largest relative change of the distance from mid-grey.
      saturation: largest relative change of the distance from grey.
      hue: largest turn of the colour circle, in turns, 0..0.5.
      on_device: leaves the colour to the training step (`Batch.colour`).

    Raises:
      UserError: a value out of its range.
    """

    crop: Kept = 1.0
    centre: Kept = 1.0
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, Range(0, 0.5)] = 0.0
    on_device: bool = False

    @property
    def has_colour(self) -> bool:
        """Whether colours are changed."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))


def crops(config: AugmentConfig, draws: Int[np.ndarray, " b"]) -> Float[np.ndarray, "b 3"] | None:
    """Draws a crop per example: side, top and left as shares of the image; None without crops.

    Args:
      config: how far.
      draws: uint64 [b].
    """
    if config.crop == 1:
        return None
    u = uniform(draws, 3, _CROP)
    side = np.sqrt(config.crop + (1 - config.crop) * u[:, 0])
    return np.stack([side, (1 - side) * u[:, 1], (1 - side) * u[:, 2]], axis=1)


def centre(share: float) -> Float[np.ndarray, " 3"]:
    """Returns the crop of so much of the area around the middle: side, top and left."""
    side = np.sqrt(share)
    return np.array([side, (1 - side) / 2, (1 - side) / 2])


def box(crop: np.ndarray, height: int, width: int) -> tuple[slice, slice]:
    """Returns the rows and columns of a crop (side, top, left) of an image."""
    side, top, left = crop.tolist()
    rows, columns = max(1, round(side * height)), max(1, round(side * width))
    first, second = min(int(top * height), height - rows), min(int(left * width), width - columns)
    return slice(first, first + rows), slice(second, second + columns)


def colours(
    config: AugmentConfig, draws: Int[np.ndarray, " b"]
) -> Float[np.ndarray, "b 3 4"] | None:
    """Draws a colour map per example; None without colour changes.

    Args:
      config: how far.
      draws: uint64 [b].

    Returns:
      float32 [b, 3, 4], to be applied to (R, G, B, 1) in 0..255 and clipped to it.
    """
    if not config.has_colour:
        return None
    u = 2 * uniform(draws, 4, _COLOUR) - 1
    shift = 255 * config.brightness * u[:, 0]
    contrast, saturation = 1 + config.contrast * u[:, 1], 1 + config.saturation * u[:, 2]
    turn = 2 * np.pi * config.hue * u[:, 3]
    chroma = np.zeros((len(draws), 3, 3))
    chroma[:, 0, 0] = 1
    chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * np.cos(turn)
    chroma[:, 2, 1] = saturation * np.sin(turn)
    chroma[:, 1, 2] = -chroma[:, 2, 1]
    matrix = contrast[:, None, None] * (np.linalg.inv(_YIQ) @ chroma @ _YIQ)
    offset = contrast * shift + 127.5 * (1 - contrast)
    columns = np.broadcast_to(offset[:, None, None], (len(draws), 3, 1))
    return np.concatenate([matrix, columns], axis=2).astype(np.float32)
