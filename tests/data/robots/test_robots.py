"""What holds for every robot of the table, on numbers drawn in its real schema."""

import generate
import numpy as np
import pytest

from vla_jax.data.robots.robot import Columns
from vla_jax.data.robots.table import ROBOTS

VIEWS = {"primary", "secondary", "wrist", "wrist_left", "wrist_right"}
ONE_ARM = (
    ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"),
    ("x", "y", "z", "roll", "pitch", "yaw", "gripper"),  # told where to be
)
OXE = sorted(set(ROBOTS) - {"tabletop"})  # the tabletop has its own generator and tests

pytestmark = pytest.mark.parametrize("robot", [ROBOTS[name] for name in OXE], ids=OXE)


def test_views_are_colour_images_of_the_schema(robot):
    schema = generate.read(robot.name)
    assert robot.images
    assert set(robot.images) <= VIEWS
    assert len(set(robot.images.values())) == len(robot.images)
    for feature in robot.images.values():
        assert feature.startswith("steps/")
        assert schema[feature].get("image"), feature
        assert schema[feature]["shape"][-1] == 3
        assert schema[feature]["dtype"] == "uint8"


def test_instructions_are_texts_of_the_schema(robot):
    schema = generate.read(robot.name)
    assert robot.instruction
    for feature in robot.instruction:
        assert schema[feature]["dtype"] == "string" or schema[feature]["text"], feature


def test_arrays_are_numbers_of_the_schema(robot):
    schema = generate.read(robot.name)
    for feature in robot.arrays:
        assert not schema[feature].get("image")
        assert schema[feature]["dtype"] != "string", feature


def test_actions_and_states_have_the_shape_they_declare(robot):
    # Only the declared arrays are at hand, as in training.
    drawn = generate.draw(robot.name)
    columns = drawn.columns_of(robot.arrays)
    action = robot.action(columns)
    assert action.shape == (sum(generate.LENGTHS), robot.spec.size)
    assert action.dtype == np.float32
    assert np.isfinite(action).all()
    if robot.state is None:
        assert robot.state_names == ()
    else:
        state = robot.state(columns)
        assert state.shape == (sum(generate.LENGTHS), len(robot.state_names))
        assert state.dtype == np.float32


def test_every_declared_array_is_read(robot):
    columns, read = generate.draw(robot.name).columns, set()

    class Watched(dict):
        def __getitem__(self, name):
            read.add(name)
            return super().__getitem__(name)

    watched = Columns(arrays=Watched(columns.arrays), episode=columns.episode)
    for function in (robot.action, robot.state, robot.keep):
        if function is not None:
            function(watched)
    assert read == set(robot.arrays)


def test_an_episode_does_not_depend_on_its_neighbours(robot):
    drawn = generate.draw(robot.name, lengths=(4, 1, 6, 3), seed=1)
    for function in (robot.action, robot.state, robot.keep):
        if function is not None:
            alone = np.concatenate([function(columns) for columns in drawn.episodes()])
            np.testing.assert_array_equal(function(drawn.columns), alone)


def test_grippers_are_zero_to_one(robot):
    action = robot.action(generate.draw(robot.name, lengths=(50,)).columns)
    for k, name in enumerate(robot.spec.names):
        if "gripper" in name:
            assert action[:, k].min() >= 0
            assert action[:, k].max() <= 1


def test_kept_steps_are_a_mask(robot):
    if robot.keep is None:
        return
    columns = generate.draw(robot.name, lengths=(30, 30, 30)).columns
    keep = robot.keep(columns)
    assert keep.shape == (90,)
    assert keep.dtype == bool
    assert keep.any()


def test_the_spec_says_what_it_means(robot):
    spec = robot.spec
    assert 1 <= spec.control_hz <= 80
    assert spec.frame
    assert spec.gripper
    assert robot.source
    assert not any(spec.discrete)
    if spec.size == 7:
        assert spec.names in ONE_ARM
