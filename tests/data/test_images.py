import io

import numpy as np
import pytest
from PIL import Image

from vla_jax.core.errors import UserError
from vla_jax.data import images

GRADIENT = np.stack(
    np.broadcast_arrays(
        np.arange(0, 160, 10)[:, None], np.arange(0, 240, 10)[None], np.full((1, 1), 200)
    ),
    axis=-1,
).astype(np.uint8)


def encode(array, kind, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def test_png_comes_back_exactly_as_rgb():
    found = images.decode(encode(GRADIENT, "PNG"), "x")
    np.testing.assert_array_equal(found, GRADIENT)


def test_jpeg_comes_back_nearly_as_rgb():
    found = images.decode(encode(GRADIENT, "JPEG", quality=95, subsampling=0), "x")
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - GRADIENT).max() <= 8


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_grey_image_becomes_rgb(kind):
    found = images.decode(encode(GRADIENT[..., 0], kind), "x")
    assert found.shape == (16, 24, 3)
    np.testing.assert_array_equal(found[..., 0], found[..., 2])


@pytest.mark.parametrize(
    "data",
    [b"", b"GIF89a not really", b"\xff\xd8\xff" + b"0" * 50, b"\x89PNG\r\n\x1a\n" + b"0" * 9],
)
def test_bytes_that_are_no_image_are_refused_by_name(data):
    with pytest.raises(UserError, match="image tabletop episode 3 step 1"):
        images.decode(data, "tabletop episode 3 step 1")


@pytest.mark.parametrize(
    "image",
    [
        GRADIENT[..., 0],
        GRADIENT[..., :2],
        np.concatenate([GRADIENT, GRADIENT[..., :1]], axis=-1),
        GRADIENT.astype(np.float32) / 255,
        GRADIENT[None],
    ],
)
def test_what_is_not_rgb_uint8_is_refused(image):
    with pytest.raises(UserError, match=r"image primary: expected RGB uint8.*convert"):
        images.check(image, "primary")


def test_rgb_uint8_passes():
    assert images.check(GRADIENT, "primary") is GRADIENT


def test_resizing_interpolates_and_keeps_the_right_size_untouched():
    assert images.resize(GRADIENT[:, :16], 16) is not None
    square = np.ascontiguousarray(GRADIENT[:, :16])
    assert images.resize(square, 16) is square
    small = images.resize(GRADIENT, 8)
    assert small.shape == (8, 8, 3)
    assert small[..., 2].min() == 200
    assert (np.diff(small[:, 0, 0].astype(int)) > 0).all()
    assert (np.diff(small[0, :, 1].astype(int)) > 0).all()
