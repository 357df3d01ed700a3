"""Encoded images -> uint8 RGB of the model's size."""

import cv2
import numpy as np
import simplejpeg

from vla_jax.core.arrays import UInt8
from vla_jax.core.errors import UserError


def decode(data: bytes, name: str) -> UInt8[np.ndarray, "y x 3"]:
    """Decodes a JPEG or PNG to RGB, 0..255.

    Raises:
      UserError: the bytes are neither.
    """
    try:
        if simplejpeg.is_jpeg(data):
            return simplejpeg.decode_jpeg(data, "RGB")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except (ValueError, cv2.error) as error:
        raise UserError(f"image {name}: cannot be decoded ({error})") from error
    if image is None:
        raise UserError(f"image {name}", expected="JPEG or PNG bytes", found=f"{data[:8]!r}...")
    return image


def check(image: np.ndarray, name: str) -> UInt8[np.ndarray, "y x 3"]:
    """Returns `image` if it is RGB uint8.

    Raises:
      UserError: another dtype, number of axes or number of channels.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise UserError(
            f"image {name}",
            expected="RGB uint8 [rows, columns, 3], 0..255",
            found=f"{image.dtype} {list(image.shape)}",
            fix="Convert it, e.g. with PIL's Image.convert('RGB')",
        )
    return image


def resize(image: UInt8[np.ndarray, "y x 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Resizes to a square by bilinear interpolation; the aspect ratio is not kept.

    Training and evaluation use this one function, so that they see the same pixels.
    """
    if image.shape[:2] == (size, size):
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
