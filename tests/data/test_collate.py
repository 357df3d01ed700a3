import dataclasses

import cv2
import numpy as np
import pytest

from vla_jax.core.batch import Example
from vla_jax.core.errors import UserError
from vla_jax.data import augment, images
from vla_jax.data.augment import AugmentConfig
from vla_jax.data.collate import Collator, Layout
from vla_jax.data.stream import mix_bits

FULL = AugmentConfig(crop=0.7, brightness=0.1, contrast=0.2, saturation=0.3, hue=0.05)
DRAWS = mix_bits(np.arange(3))


@pytest.fixture
def sources(make_source):
    return (
        make_source("arm", "robot", 20, dimensions=3, states=2),
        make_source("hand", "robot", 30, dimensions=5),
        make_source("vqa", "web", 40),
    )


@pytest.fixture
def fill(sources, make_encoder):
    encoder = make_encoder(sources)

    def fill(examples=None, numbers=(0, 1, 2), **layout):
        examples = examples or [sources[number].example(4) for number in numbers]
        collator = Collator(sources, encoder, Layout(**{"image_size": 24, **layout}))
        rows = collator.start(np.array(numbers), DRAWS[: len(numbers)])
        for row in reversed(range(len(examples))):  # in any order
            rows.decode(row, examples[row], f" of {examples[row].name}")
            rows.write([row], [examples[row]])
        return rows.finish()

    fill.encoder = encoder
    return fill


def decoded(data):
    return images.decode(data, "x")


def test_rows_keep_their_order_and_hold_what_the_encoder_says(fill, sources):
    batch = fill()
    assert batch.source.tolist() == [0, 1, 2]
    assert (batch.source.dtype, batch.tokens.dtype) == (np.int32, np.int32)
    for row, source in enumerate(sources):
        example = source.example(4)
        tokens, length, mask = fill.encoder.encode(example)
        np.testing.assert_array_equal(batch.tokens[row], tokens)
        np.testing.assert_array_equal(batch.loss_mask[row], mask)
        assert batch.prefix_length[row] == length
        wanted = images.resize(decoded(source.encoded(4)), 24)
        np.testing.assert_array_equal(batch.images[row, 0], wanted)
    assert batch.image_mask.all()
    assert batch.actions is batch.state is batch.colour is None


def test_views_and_steps_have_their_slots_and_absent_ones_are_masked(fill, sources):
    arm, vqa = sources[0], sources[2]
    window = {
        "wrist": (None, arm.encoded(5)),
        "primary": (arm.encoded(6), arm.encoded(7)),
        "unwanted": (b"", b""),
    }
    robot = dataclasses.replace(arm.example(7), images=window)
    web = dataclasses.replace(vqa.example(7), images={"primary": (None, vqa.encoded(7))})
    batch = fill([robot, web], (0, 2), views=("primary", "wrist"), history=2)
    # The oldest step's views come first.
    assert batch.image_mask.tolist() == [[True, False, True, True], [False, False, True, False]]
    for slot, data in ((0, arm.encoded(6)), (2, arm.encoded(7)), (3, arm.encoded(5))):
        np.testing.assert_array_equal(batch.images[0, slot], images.resize(decoded(data), 24))
    assert not batch.images[~batch.image_mask].any()


def test_numbers_are_normalised_and_padded_to_the_widest_robot(fill):
    batch = fill(continuous=True)
    assert batch.actions.shape == batch.action_mask.shape == (3, 1, 5)
    # The quantiles of two values -1 and 1 are at 0.98: action i / size lies a little further out.
    np.testing.assert_allclose(batch.actions[0, 0, :3], 4 / 20 / 0.98, rtol=1e-5)
    np.testing.assert_allclose(batch.actions[1, 0], 4 / 30 / 0.98, rtol=1e-5)
    assert not batch.actions[0, 0, 3:].any()
    assert batch.action_mask.sum(axis=(1, 2)).tolist() == [3, 5, 0]
    np.testing.assert_allclose(batch.state[0], -4 / 20 / 0.98, rtol=1e-5)
    assert batch.state_mask.tolist() == [[True, True], [False, False], [False, False]]


def test_a_chunk_beyond_its_episode_is_masked(fill, sources):
    example = dataclasses.replace(
        sources[0].example(4),
        action=np.full((2, 3), 0.1, np.float32),
        action_mask=np.array([True, False]),
    )
    batch = fill([example], (0,), chunk=2, continuous=True)
    assert batch.action_mask[0].tolist() == [[True] * 3 + [False] * 2, [False] * 5]


def test_a_picture_is_cropped_then_resized_then_coloured(fill, sources):
    batch = fill(augment=FULL)
    crops, colours = augment.crops(FULL, DRAWS), augment.colours(FULL, DRAWS)
    for row, source in enumerate(sources):
        image = decoded(source.encoded(4))
        image = image[augment.box(crops[row], *image.shape[:2])]
        wanted = cv2.transform(images.resize(image, 24), colours[row])
        np.testing.assert_array_equal(batch.images[row, 0], wanted)
    assert batch.colour is None


def test_every_picture_of_an_example_is_changed_alike(fill, sources):
    data = sources[0].encoded(3)
    example = dataclasses.replace(
        sources[0].example(3), images={"primary": (data, data), "wrist": (data, data)}
    )
    batch = fill([example] * 2, (0, 0), augment=FULL, history=2, views=("primary", "wrist"))
    for slot in range(1, 4):
        np.testing.assert_array_equal(batch.images[:, slot], batch.images[:, 0])
    assert (batch.images[0] != batch.images[1]).any()


def test_colour_may_be_left_to_the_device(fill):
    on_device = fill(augment=dataclasses.replace(FULL, on_device=True))
    on_host = fill(augment=FULL)
    assert on_device.colour.dtype == np.float32
    for row in range(3):
        finished = cv2.transform(on_device.images[row, 0], on_device.colour[row])
        np.testing.assert_array_equal(finished, on_host.images[row, 0])


def test_lanczos_is_used_where_asked_for(fill, sources):
    batch = fill(resize="lanczos")
    wanted = images.resize(decoded(sources[0].encoded(4)), 24, "lanczos")
    np.testing.assert_array_equal(batch.images[0, 0], wanted)


def test_a_large_picture_is_decoded_reduced_unless_lanczos(fill, make_source, monkeypatch):
    large = make_source("large", "web", 5, shape=(96, 128))
    asked = []
    decode = images.decode

    def spy(data, name, at_least=None, **limits):
        asked.append(at_least)
        return decode(data, name, at_least=at_least, **limits)

    monkeypatch.setattr(images, "decode", spy)
    for settings in ({}, {"augment": AugmentConfig(crop=0.25)}, {"resize": "lanczos"}):
        fill([large.example(0)], (2,), **settings)
    assert asked[0] == 24
    assert 24 < asked[1] <= 48  # what is left of the crop has to suffice
    assert asked[2] is None


def test_a_damaged_picture_is_named_with_its_view(fill, sources):
    sources[0].damaged.add(4)
    with pytest.raises(UserError, match="image primary of arm episode 4 step 0: cannot be"):
        fill()


def test_a_text_that_does_not_fit_is_named(fill):
    example = Example(images={}, prefix="name 1", suffix="yes " * 20, dataset="vqa", episode=3)
    with pytest.raises(UserError, match=r"vqa 3: answer 'yes .*is too long.*suffix=22"):
        fill([example], (2,))
