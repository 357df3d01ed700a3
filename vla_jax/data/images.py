"""Encoded images -> uint8 RGB of the model's size."""

import io
import struct
import warnings
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from vla_jax.core.arrays import UInt8
from vla_jax.core.errors import UserError

Resize = Literal["linear", "lanczos"]

# A camera's picture of 8192 x 8192, 200 MB once decoded. What says that it has more is damaged, or
# meant to fill the memory.
MOST_PIXELS = 2**26

PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"  # not simplejpeg.is_jpeg: a truncated one would go to a laxer decoder


def decode(
    data: bytes, name: str, *, at_least: int | None = None, most_pixels: int | None = None
) -> UInt8[np.ndarray, "y x 3"]:
    """Decodes a JPEG or PNG to RGB, 0..255.

    Args:
      data: the encoded image.
      name: what it is, for messages.
      at_least: sides that suffice, pixels: a JPEG of twice this or more comes out at 1/2, 1/4 or
        1/8 if that divides its sides, which takes less time than the whole. None decodes it whole.
      most_pixels: of an image, as a run's config says; `MOST_PIXELS` outside of a run. One of more
        is refused by its header, before there is memory for it.

    Raises:
      UserError: the bytes are neither, damaged, or those of too large an image.
    """
    try:
        height, width = size(data, name, most_pixels=most_pixels)
        if data.startswith(_JPEG):
            if at_least is None:
                return simplejpeg.decode_jpeg(data, "RGB")
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
        raise _no_image(data, name)
    return image


def size(data: bytes, name: str, *, most_pixels: int | None = None) -> tuple[int, int]:
    """Returns rows and columns of an encoded image, from its header.

    Args:
      data: the encoded image, or its beginning.
      name: what it is, for messages.
      most_pixels: as for `decode`.

    Raises:
      UserError: it has none, or more pixels than there may be.
    """
    try:
        if data.startswith(_JPEG):
            height, width = map(int, simplejpeg.decode_jpeg_header(data)[:2])
        elif data.startswith(PNG) and data[12:16] == b"IHDR" and len(data) >= 24:
            width, height = struct.unpack(">II", data[16:24])
        else:
            with warnings.catch_warnings():  # what Pillow warns of is refused below
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(data)) as image:
                    height, width = image.height, image.width
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error), most_pixels) from error
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises any of them
        raise _no_image(data, name, error) from error
    if height * width > (MOST_PIXELS if most_pixels is None else most_pixels):
        raise _too_large(name, f"{width} x {height}", most_pixels)
    return height, width


def _no_image(data: bytes, name: str, error: Exception | None = None) -> UserError:
    if data.startswith(_JPEG) and error is not None:
        return UserError(f"image {name}: cannot be decoded ({error})")
    found = f"{data[:8]!r}..." if data else "no bytes"
    return UserError(f"image {name}", expected="JPEG or PNG bytes", found=found)


def _too_large(name: str, found: str, most: int | None) -> UserError:
    fix = "Make it smaller before it is used; models see a few hundred pixels a side"
    return UserError(
        f"image {name} is too large",
        expected=f"at most {MOST_PIXELS if most is None else most:,} pixels, by its header",
        found=found,
        fix=fix if most is None else f"{fix}. Or raise config.loader.max_pixels",
    )


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
