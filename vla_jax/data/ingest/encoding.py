"""Pixels to encoded images, and what an encoded image says about itself."""

import dataclasses
import io
import struct
from typing import Literal, NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from vla_jax.core.arrays import UInt8
from vla_jax.core.errors import UserError
from vla_jax.data import images


class ImageFormat(NamedTuple):
    """How an image is encoded, and its size in pixels."""

    encoding: Literal["jpeg", "png"]
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.encoding.upper()} {self.height}x{self.width}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
    """Encodes RGB pixels.

    Attributes:
      lossless: PNG instead of JPEG.
      quality: of JPEG, 1..100; 95 with halved chroma is what TFDS writes.
    """

    lossless: bool = False
    quality: int = 95

    def __call__(self, pixels: UInt8[np.ndarray, "y x 3"]) -> bytes:
        """Returns the encoded bytes."""
        if not self.lossless:
            return simplejpeg.encode_jpeg(
                np.ascontiguousarray(pixels),
                quality=self.quality,
                colorspace="RGB",
                colorsubsampling="420",
            )
        done, data = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))
        if not done:
            raise ValueError(f"OpenCV refused to encode {pixels.dtype} {pixels.shape} as PNG")
        return data.tobytes()


def image_format(data: bytes) -> ImageFormat:
    """Reads the header of an encoded image.

    Raises:
      ValueError: it is neither JPEG nor PNG of 8 bits per channel, is damaged, or says that it is
        so large that nobody should decode it.
    """
    found = _header(data)
    check_size(found.height, found.width)
    return found


def check_size(height: int, width: int) -> None:
    """Refuses pictures without pixels, and those that would fill the memory.

    Raises:
      ValueError: it is one.
    """
    if not 0 < height * width <= images.MOST_PIXELS:
        raise ValueError(f"{height}x{width} pixels, expected 1 to {images.MOST_PIXELS:,}")


def _header(data: bytes) -> ImageFormat:
    if data.startswith(images.PNG):
        if len(data) < 33:
            raise ValueError(f"PNG of {len(data)} bytes is cut off")
        width, height, depth = struct.unpack(">IIB", data[16:25])
        if depth != 8:
            raise ValueError(f"PNG of {depth} bits per channel, as depth maps are stored")
        return ImageFormat("png", height, width)
    if simplejpeg.is_jpeg(data):
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        return ImageFormat("jpeg", int(height), int(width))
    raise ValueError(f"neither JPEG nor PNG, begins with {data[:8]!r}")


def intact(data: bytes | None, place: str) -> bytes:
    """Returns an encoded image that is kept as it is, after decoding it once.

    Args:
      data: the bytes that the source has.
      place: feature, file, episode and step, for messages.

    Raises:
      UserError: there are none, or they are no whole image.
    """
    if not data:
        raise UserError(f"image {place} is missing", fix="Remove the episode, or ingest without it")
    try:
        image_format(data)
    except ValueError as error:
        raise UserError(f"image {place}: {error}") from error
    if data.startswith(images.PNG):
        _check_sums(data, place)
    images.decode(data, place)
    return data


def _check_sums(data: bytes, place: str) -> None:
    """Verifies the checksums of a PNG, which OpenCV does not."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"image {place}: damaged ({error})", fix="Fetch the file again") from error
