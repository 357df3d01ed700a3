"""An observation is what training made of the same cameras and joints."""

import io

import numpy as np
import pytest
from PIL import Image

from vla_jax.actions.statistics import Statistics
from vla_jax.core.batch import Example
from vla_jax.core.errors import UserError
from vla_jax.data import images as images_lib
from vla_jax.policy.observation import Observation, Observer, stack

RNG = np.random.default_rng(0)
STATISTICS = Statistics.of(RNG.uniform(-2, 3, (100, 3)).astype(np.float32))


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)


def png(image):
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def observer(**changes):
    return Observer(**{"views": ("front", "wrist"), "history": 3, "image_size": 8} | changes)


def test_all_views_of_the_oldest_step_come_first_and_early_steps_are_absent():
    seen = observer().look(
        {"front": [picture(1), picture(2)], "wrist": [picture(3), picture(4)]},
    )
    assert seen.image_mask.tolist() == [False, False, True, True, True, True]
    assert seen.images.shape == (6, 8, 8, 3)
    assert not seen.images[:2].any()
    for slot, seed in ((2, 1), (3, 3), (4, 2), (5, 4)):
        np.testing.assert_array_equal(seen.images[slot], images_lib.resize(picture(seed), 8))
    assert seen.state is None


def test_one_image_is_the_present_step():
    one = observer(views=("front",)).look({"front": picture(1)})
    many = observer(views=("front",)).look({"front": [picture(1)]})
    assert one.image_mask.tolist() == many.image_mask.tolist() == [False, False, True]
    np.testing.assert_array_equal(one.images, many.images)


def test_a_stored_example_is_looked_at_like_a_camera():
    example = Example(
        images={"front": (None, png(picture(1)), png(picture(2)))},
        prefix="go",
        dataset="arm",
        episode=0,
        state=np.array(STATISTICS.q99, np.float32),
    )
    takes = observer(state=5, statistics=STATISTICS)
    seen = takes.read(example)
    assert seen.image_mask.tolist() == [False, False, True, False, True, False]
    np.testing.assert_array_equal(seen.images[4], images_lib.resize(picture(2), 8))
    assert seen.state is not None
    assert seen.state_mask is not None
    np.testing.assert_allclose(seen.state, [1, 1, 1, 0, 0], atol=1e-6)
    assert seen.state_mask.tolist() == [True] * 3 + [False] * 2


@pytest.mark.parametrize("resize", ["linear", "lanczos"])
def test_the_middle_of_an_image_may_be_all_that_is_looked_at(resize):
    # Half of each side: 10 of 20 rows, 12 of 24 columns.
    wanted = images_lib.resize(picture(1)[5:15, 6:18], 8, resize)
    takes = observer(views=("front",), history=1, centre=0.25, resize=resize)
    np.testing.assert_array_equal(takes.look({"front": picture(1)}).images[0], wanted)
    images = {"front": (png(picture(1)),)}
    stored = Example(images=images, prefix="go", dataset="arm", episode=0)
    np.testing.assert_array_equal(takes.read(stored).images[0], wanted)


def test_a_robot_without_state_has_none_known():
    seen = observer(state=5, views=("front",)).look({"front": picture(1)})
    assert seen.state_mask is not None
    assert not seen.state_mask.any()


def test_observations_are_stacked_by_the_name_of_the_argument():
    plain = Observation(images=np.zeros((1, 8, 8, 3), np.uint8), image_mask=np.ones(1, bool))
    assert {name: value.shape for name, value in stack([plain] * 3).items()} == {
        "images": (3, 1, 8, 8, 3),
        "image_mask": (3, 1),
    }


@pytest.mark.parametrize(
    ("images", "state", "message"),
    [
        ({"front": picture(1)}, None, "expected the views front, wrist, found front"),
        ({"front": [], "wrist": [picture(1)]}, None, "of front: expected 1 to 3 steps.*found 0"),
        ({"front": [picture(1)] * 4, "wrist": picture(1)}, None, "found 4"),
        ({"front": picture(1), "wrist": picture(1)}, None, "state: expected 3 numbers.*found none"),
        ({"front": picture(1), "wrist": picture(1)}, np.zeros(4), r"found shape \(4,\)"),
    ],
)
def test_what_is_no_observation_is_refused(images, state, message):
    with pytest.raises(UserError, match=message):
        observer(state=5, statistics=STATISTICS).look(images, state)
