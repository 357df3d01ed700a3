"""Images as an exported policy takes them: checked, cropped, resized, as in training.

The part of a stand-alone policy that knows about images; it is copied into every export. Needs
numpy, and OpenCV or Pillow for images that are not of the model's size. Axes: y, x.
"""

import pathlib
from typing import Any

import numpy as np

_PIXELS = 1 << 26  # of the largest file that is decoded: 8192 by 8192


def read(file: str) -> np.ndarray:
    """Decodes an image file.

    Raises:
      ValueError: there is no such file, it is no image, damaged, or has too many pixels, by its
        header.
    """
    from PIL import Image  # noqa: PLC0415  (a robot hands over arrays)

    Image.MAX_IMAGE_PIXELS = None  # refused here, in our words
    try:
        with Image.open(pathlib.Path(file).expanduser()) as picture:
            width, height = picture.size
            if width * height <= _PIXELS:
                return np.asarray(picture)
    except Exception as error:  # every format has exceptions of its own
        raise ValueError(f"image {file}: cannot be read ({error})") from error
    raise ValueError(f"image {file}: expected at most {_PIXELS} pixels, found {width} x {height}")


def checked(given: Any, view: str) -> np.ndarray:
    """Returns an image as an array.

    Raises:
      ValueError: it is not RGB uint8 with at least one pixel.
    """
    try:
        image = np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"image {view}: expected an array ({error})") from error
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        found = f"{image.dtype} {list(image.shape)}"
        raise ValueError(f"image {view}: expected RGB uint8 [y, x, 3], found {found}")
    return image


def centre(image: np.ndarray, share: float) -> np.ndarray:
    """Returns the middle of an image, so much of its area."""
    if share == 1:
        return image
    side = share**0.5
    sides = [max(1, round(side * length)) for length in image.shape[:2]]
    starts = [int((1 - side) / 2 * length) for length in image.shape[:2]]
    (top, rows), (left, columns) = zip(starts, sides, strict=True)
    return image[top : top + rows, left : left + columns]


def resize(image: np.ndarray, size: int, method: str) -> np.ndarray:
    """Resizes to a square as in training: Lanczos, or box averages by 2, 4, 8 and then linear."""
    if image.shape[:2] == (size, size):
        return image
    if method == "lanczos":
        from PIL import Image  # noqa: PLC0415  (a robot needs one of the two)

        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))
    import cv2  # noqa: PLC0415

    height, width = image.shape[:2]
    factor = max(f for f in (1, 2, 4, 8) if f == 1 or min(height, width) >= f * size)
    if factor > 1:
        reduced = (width // factor, height // factor)
        image = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
