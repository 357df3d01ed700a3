"""Encoded images -> uint8 RGB of the model's size."""

import io
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from vla_jax.core.arrays import UInt8
from vla_jax.core.errors import UserError

Resize = Literal["linear", "lanczos"]

_JPEG = b"\xff\xd8\xff"  # not simplejpeg.is_jpeg: a truncated one would go to a laxer decoder


def decode(data: bytes, name: str, *, at_least: int | None = None) -> UInt8[np.ndarray, "y x 3"]:
    """Decodes a JPEG or PNG to RGB, 0..255.

    Args:
      data: the encoded image.
      name: what it is, for messages.
      at_least: sides that suffice, pixels: a JPEG of twice this or more comes out at 1/2, 1/4 or
        1/8 if that divides its sides, which takes less time than the whole. None decodes it whole.

    Raises:
      UserError: the bytes are neither, or damaged.
    """
    try:
        if data.startswith(_JPEG):
            if at_least is None:
                return simplejpeg.decode_jpeg(data, "RGB")
            height, width = map(int, simplejpeg.decode_jpeg_header(data)[:2])
            factor = _reduction(height, width, at_least)
            if height % factor or width % factor:  # it would come out stretched
                factor = 1
            # Asked for this size exactly: the decoder's scales between are slower than full size.
            return simplejpeg.decode_jpeg(
                data, "RGB", min_height=height // factor, min_width=width // factor
            )
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except (ValueError, cv2.error) as error:
        raise UserError(f"image {name}: cannot be decoded ({error})") from error
    if image is None:
        raise UserError(f"image {name}", expected="JPEG or PNG bytes", found=f"{data[:8]!r}...")
    return image


def size(data: bytes, name: str) -> tuple[int, int]:
    """Returns rows and columns of an encoded image, from its header.

    Raises:
      UserError: it has none.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.height, image.width
    except OSError as error:
        raise UserError(
            f"image {name}", expected="JPEG or PNG bytes", found=f"{data[:8]!r}..."
        ) from error


def check(image: np.ndarray, name: str) -> UInt8[np.ndarray, "y x 3"]:
    """Returns `image` if it is RGB uint8.

    Raises:
      UserError: another dtype, number of axes or number of channels, or no pixel.
    """
    is_image = image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3
    if not is_image or not image.size:
        raise UserError(
            f"image {name}",
            expected="RGB uint8 [rows, columns, 3], 0..255",
            found=f"{image.dtype} {list(image.shape)}",
            fix="Convert it, e.g. with PIL's Image.convert('RGB')",
        )
    return image


def resize(
    image: UInt8[np.ndarray, "y x 3"],
    size: int,
    method: Resize = "linear",
    *,
    out: UInt8[np.ndarray, "size size 3"] | None = None,
) -> UInt8[np.ndarray, "size size 3"]:
    """Resizes to a square; the aspect ratio is not kept.

    Training and evaluation use this one function, so that they see the same pixels.

    Args:
      image: RGB.
      size: side wanted, pixels.
      method: `linear` averages blocks of 2, 4 or 8 pixels while twice the size or more is left, as
        a JPEG decoder does, and interpolates; `lanczos` is the antialiased Lanczos-3 kernel that
        Octo's and OpenVLA's checkpoints were trained on, at 5 times the cost.
      out: written to and returned, contiguous.
    """
    if image.shape[:2] == (size, size):
        resized = image
    elif method == "lanczos":
        resized = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))
    else:
        height, width = image.shape[:2]
        factor = _reduction(height, width, size)
        if factor > 1:
            reduced = (width // factor, height // factor)
            image = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
        return cv2.resize(image, (size, size), dst=out, interpolation=cv2.INTER_LINEAR)
    if out is None:
        return resized
    out[:] = resized
    return out


def _reduction(height: int, width: int, size: int) -> int:
    """Returns the largest of 1, 2, 4, 8 by which both sides may shrink and still be `size`."""
    return max(
        factor for factor in (1, 2, 4, 8) if factor == 1 or min(height, width) >= factor * size
    )
