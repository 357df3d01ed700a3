import colorsys

import cv2
import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.data import augment
from vla_jax.data.augment import AugmentConfig
from vla_jax.data.stream import mix_bits

DRAWS = mix_bits(np.arange(3000))
FULL = AugmentConfig(crop=0.8, brightness=0.1, contrast=0.2, saturation=0.3, hue=0.05)


def apply(config, pixel):
    """Applies 3000 drawn colour maps to one RGB pixel."""
    return np.einsum("bij,j->bi", augment.colours(config, DRAWS), [*pixel, 1.0])


def test_the_default_changes_nothing():
    assert augment.crops(AugmentConfig(), DRAWS) is None
    assert augment.colours(AugmentConfig(), DRAWS) is None


def test_crops_lie_in_the_image_and_have_the_areas_asked_for():
    side, top, left = augment.crops(FULL, DRAWS).T
    area = side**2
    assert area.min() >= 0.8
    assert area.max() <= 1
    np.testing.assert_allclose(np.quantile(area, [0.25, 0.5, 0.75]), [0.85, 0.9, 0.95], atol=0.01)
    for offset in (top, left):
        assert offset.min() >= 0
        assert (offset + side).max() <= 1 + 1e-12
        assert np.corrcoef(offset, side)[0, 1] < -0.3  # small crops may lie anywhere
    assert abs(np.corrcoef(top / (1 - side), left / (1 - side))[0, 1]) < 0.05


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (256, 320)])
def test_boxes_lie_in_the_image(shape):
    for crop in augment.crops(AugmentConfig(crop=0.1), DRAWS[:300]):
        for part, length in zip(augment.box(crop, *shape), shape, strict=True):
            assert 0 <= part.start < part.stop <= length
            assert part.stop - part.start == max(1, round(crop[0] * length))


def test_a_box_is_the_same_share_of_every_size():
    crop = np.array([0.5, 0.25, 0.5])
    assert augment.box(crop, 100, 200) == (slice(25, 75), slice(100, 200))
    assert augment.box(crop, 400, 400) == (slice(100, 300), slice(200, 400))


def test_brightness_shifts_all_channels():
    found = apply(AugmentConfig(brightness=0.1), (100, 150, 50)) - [100, 150, 50]
    np.testing.assert_allclose(found, np.repeat(found[:, :1], 3, axis=1), atol=1e-3)
    assert np.abs(found).max() == pytest.approx(25.5, abs=0.2)
    assert found.mean() == pytest.approx(0, abs=1)


def test_contrast_keeps_mid_grey():
    np.testing.assert_allclose(apply(AugmentConfig(contrast=0.5), (127.5,) * 3), 127.5, atol=1e-2)
    scale = (apply(AugmentConfig(contrast=0.5), (227.5, 127.5, 27.5)) - 127.5) / 100
    np.testing.assert_allclose(scale[:, 0], -scale[:, 2], atol=1e-3)
    assert (scale[:, 0].min(), scale[:, 0].max()) == pytest.approx((0.5, 1.5), abs=0.01)


@pytest.mark.parametrize("config", [AugmentConfig(saturation=0.9), AugmentConfig(hue=0.5)])
def test_saturation_and_hue_keep_grey_and_luminance(config):
    np.testing.assert_allclose(apply(config, (80, 80, 80)), 80, atol=0.2)
    luminance = apply(config, (200, 40, 90)) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(luminance, luminance[0], atol=0.1)


def test_hue_turns_the_colour_circle():
    config = AugmentConfig(hue=0.1)
    turned = apply(config, (140, 100, 100))
    hues = np.array([colorsys.rgb_to_hsv(*(pixel / 255))[0] for pixel in turned])
    hues = (hues + 0.5) % 1 - 0.5
    assert hues.max() == pytest.approx(0.1, abs=0.05)
    assert hues.min() == pytest.approx(-0.1, abs=0.05)


def test_saturation_scales_the_distance_from_grey():
    found = apply(AugmentConfig(saturation=0.5), (140, 100, 100))
    spread = (found[:, 0] - found[:, 1]) / 40
    assert (spread.min(), spread.max()) == pytest.approx((0.5, 1.5), abs=0.01)


def test_what_is_drawn_depends_on_the_draw_alone():
    np.testing.assert_array_equal(
        augment.colours(FULL, DRAWS[5:6]), augment.colours(FULL, DRAWS)[5:6]
    )
    np.testing.assert_array_equal(augment.crops(FULL, DRAWS[5:6]), augment.crops(FULL, DRAWS)[5:6])
    assert len(np.unique(augment.colours(FULL, DRAWS), axis=0)) == len(DRAWS)


def test_switching_colour_off_does_not_move_the_crop():
    np.testing.assert_array_equal(
        augment.crops(FULL, DRAWS), augment.crops(AugmentConfig(crop=0.8), DRAWS)
    )


def test_a_colour_map_is_what_opencv_applies():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    matrix = augment.colours(FULL, DRAWS)[3]
    assert matrix.dtype == np.float32
    wanted = np.clip(image @ matrix[:, :3].T + matrix[:, 3], 0, 255)
    assert np.abs(cv2.transform(image, matrix) - wanted).max() <= 0.6  # OpenCV counts in 1/1024


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 0.0}, r"AugmentConfig\.crop: expected 0 < x <= 1"),
        ({"crop": 1.2}, r"\.crop"),
        ({"brightness": -0.1}, r"\.brightness: expected 0\.\.1"),
        ({"hue": 0.6}, r"\.hue: expected 0\.\.0\.5"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        AugmentConfig(**changes)
