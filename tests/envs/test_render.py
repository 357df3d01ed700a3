"""Pictures of the tabletop: what is where, in which colour, whole at any size."""

import itertools

import numpy as np
import pytest

from vla_jax.envs.tabletop import render, scene, world
from vla_jax.envs.tabletop.world import Block


def draw(blocks, positions, *, size=64, gripper=None, closed=False, **options):
    return render.draw(
        tuple(blocks), np.array(positions), gripper=gripper, closed=closed, size=size, **options
    )


def changed(image):
    """Where an image differs visibly from the bare table: bool [y, x]."""
    return np.abs(image.astype(int) - render.BACKGROUND).max(-1) > 40


@pytest.mark.parametrize("size", [16, 64, 256])
def test_a_block_covers_the_pixels_around_its_position(size):
    x, y = 0.10, 0.28
    rows, columns = np.nonzero(changed(draw([Block("red", "ball")], [(x, y)], size=size)))
    metres = world.TABLE_SIZE / size
    assert (columns.mean() + 0.5) * metres == pytest.approx(x, abs=0.6 * metres)
    assert (rows.mean() + 0.5) * metres == pytest.approx(y, abs=0.6 * metres)
    width = (columns.max() - columns.min() + 1) * metres
    assert width == pytest.approx(world.BLOCK_SIZE, abs=2.5 * metres)


@pytest.mark.parametrize("colour", world.COLOURS)
def test_a_cube_has_its_colour_in_the_middle(colour):
    image = draw([Block(colour, "cube")], [(0.2, 0.2)])
    np.testing.assert_allclose(image[32, 32], world.COLOURS[colour], atol=1)


def test_shapes_are_told_apart_at_64_pixels():
    images = {
        shape: draw([Block("blue", shape)], [(0.2, 0.2)]).astype(int) for shape in world.SHAPES
    }
    for one, other in itertools.combinations(world.SHAPES, 2):
        differing = np.abs(images[one] - images[other]).max(-1) > 60
        # A block is about 14 x 14 pixels; a tenth of that must differ clearly.
        assert differing.sum() >= 20, (one, other)


def test_colours_are_told_apart():
    for one, other in itertools.combinations(world.COLOURS.values(), 2):
        assert np.linalg.norm(np.subtract(one, other)) > 60


def test_open_and_closed_gripper_differ_and_leave_a_held_block_in_sight():
    block, position = [Block("red", "cube")], [(0.2, 0.2)]
    bare = draw(block, position)
    opened = draw(block, position, gripper=(0.2, 0.2))
    closed = draw(block, position, gripper=(0.2, 0.2), closed=True)
    assert (opened != closed).any()
    body = changed(bare)
    for image in (opened, closed):
        is_visible = (np.abs(image.astype(int) - bare).max(-1) <= 40) & body
        assert is_visible.sum() > 0.6 * body.sum()


def test_blocks_are_cut_off_at_the_border_without_wrapping():
    image = draw([Block("red", "cube")], [(0.0, 0.0)])
    seen = changed(image)
    assert seen[0, 0]
    assert not seen[10:].any()
    assert not seen[:, 10:].any()


def test_the_block_held_last_covers_the_others():
    blocks = [Block("red", "cube"), Block("blue", "cube")]
    positions = [(0.2, 0.2), (0.2, 0.2)]
    assert tuple(draw(blocks, positions)[32, 32]) == world.COLOURS["blue"]
    assert tuple(draw(blocks, positions, top=0)[32, 32]) == world.COLOURS["red"]


def test_moving_a_quarter_of_a_pixel_changes_the_picture():
    step = world.TABLE_SIZE / 64 / 4
    images = [draw([Block("green", "star")], [(0.2 + k * step, 0.2)]) for k in range(5)]
    assert all((one != other).any() for one, other in itertools.pairwise(images))
    # A whole pixel is the same picture, moved.
    np.testing.assert_array_equal(images[0][:, :-1], images[4][:, 1:])


def test_rendering_a_scene_leaves_it_unchanged_and_repeats():
    start = scene.sample(np.random.default_rng(0), blocks=(3, 3))
    before = start.positions.copy()
    first = render.render(start, 64)
    np.testing.assert_array_equal(first, render.render(start, 64))
    np.testing.assert_array_equal(before, start.positions)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
