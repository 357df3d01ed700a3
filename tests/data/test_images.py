import io
import struct

import cv2
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


def smooth(height, width):
    """A picture with detail at the scale of a tenth of its sides."""
    small = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(
    ("shape", "at_least", "expected"),
    [
        ((256, 320), 224, (256, 320)),
        ((480, 640), 224, (240, 320)),
        ((448, 448), 224, (224, 224)),
        ((447, 900), 224, (447, 900)),
        ((960, 1280), 224, (240, 320)),
        ((2000, 2000), 100, (250, 250)),
        ((480, 640), None, (480, 640)),
        ((481, 640), 224, (481, 640)),
    ],
)
def test_a_jpeg_is_reduced_only_where_twice_the_size_is_left(shape, at_least, expected):
    data = encode(smooth(*shape), "JPEG", quality=95)
    assert images.decode(data, "x", at_least=at_least).shape == (*expected, 3)


def test_a_png_is_never_reduced():
    assert images.decode(encode(smooth(96, 96), "PNG"), "x", at_least=10).shape == (96, 96, 3)


@pytest.mark.parametrize("shape", [(480, 640), (500, 500), (1000, 1001)])
def test_a_reduced_jpeg_is_what_evaluation_makes_of_the_whole_picture(shape):
    data = encode(smooth(*shape), "JPEG", quality=95, subsampling=0)
    trained_on = images.resize(images.decode(data, "x", at_least=112), 112)
    seen = images.resize(images.decode(data, "x"), 112)
    assert np.abs(trained_on.astype(int) - seen).mean() < 1


def test_lanczos_is_the_antialiased_kernel_of_the_other_codebases():
    # The kernel at every output pixel, in floating point: Octo and OpenVLA call
    # tf.image.resize(method="lanczos3", antialias=True), which is this.
    image, size = smooth(50, 70), 20

    def kernel(length):
        scale = length / size
        centres = (np.arange(size) + 0.5) * scale
        x = (np.arange(length) + 0.5 - centres[:, None]) / scale
        weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
        return weights / weights.sum(axis=1, keepdims=True)

    wanted = np.einsum("iy,jx,yxc->ijc", kernel(50), kernel(70), image.astype(float))
    found = images.resize(image, size, "lanczos")
    assert np.abs(found - np.clip(wanted, 0, 255)).max() <= 2.5  # 8 bits between the axes
    assert np.abs(found - np.clip(wanted, 0, 255)).mean() < 0.4
    assert np.abs(found.astype(int) - images.resize(image, size)).mean() > 2


@pytest.mark.parametrize("method", ["linear", "lanczos"])
@pytest.mark.parametrize("side", [24, 32, 100])
def test_resizing_into_an_array_gives_the_same(method, side):
    image = smooth(side, side)
    out = np.zeros((2, 32, 32, 3), np.uint8)
    images.resize(image, 32, method, out=out[1])
    np.testing.assert_array_equal(out[1], images.resize(image, 32, method))
    assert not out[0].any()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_size_is_read_from_the_header(kind):
    assert images.size(encode(GRADIENT, kind), "x") == (16, 24)
    with pytest.raises(UserError, match="image x: expected JPEG or PNG bytes"):
        images.size(b"nothing", "x")


def test_a_truncated_jpeg_is_refused_reduced_or_not():
    data = encode(smooth(128, 128), "JPEG", quality=95)
    for at_least in (None, 32):
        with pytest.raises(UserError, match="image x: cannot be decoded"):
            images.decode(data[: len(data) // 2], "x", at_least=at_least)


def bomb(kind, side=20_000):
    """A header that says `side` x `side` pixels, with little behind it."""
    if kind == "png":
        head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + b"\0" * 40
    if kind == "bmp":
        file = struct.pack("<2sIHHI", b"BM", 1000, 0, 0, 54)
        return file + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    data = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(data)


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp"])
@pytest.mark.parametrize("read", [images.decode, images.size])
def test_an_image_that_says_it_is_huge_is_refused_by_its_header(kind, read):
    with pytest.raises(UserError, match=r"image x is too large: expected at most 67,108,864 pix"):
        read(bomb(kind), "x")


def test_no_bytes_are_no_image():
    with pytest.raises(UserError, match="image x: expected JPEG or PNG bytes, found no bytes"):
        images.decode(b"", "x")
