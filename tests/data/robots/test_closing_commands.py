"""Datasets whose action is the motion and, last, how closed the gripper is to be."""

import generate
import numpy as np
import pytest

from vla_jax.data.robots.table import find

EXTERNAL = "dataset_converted_externally_to_rlds"
# Name -> (what the dataset writes for open, the state as slices of the stored one).
STORED = {
    f"stanford_hydra_{EXTERNAL}": (0, ((0, 3), (7, 10), (24, 25))),
    f"austin_buds_{EXTERNAL}": (-1, ((0, 8),)),
    f"austin_sailor_{EXTERNAL}": (-1, ((0, 8),)),
    f"austin_sirius_{EXTERNAL}": (-1, ((0, 8),)),
    "utaustin_mutex": (-1, ((0, 8),)),
}
ALL = [*STORED, "fmb_dataset"]
robots = pytest.mark.parametrize("name", ALL)


def state_of(name, columns):
    robot = find(name)
    assert robot.state is not None
    return robot.state(columns)


def standard_step(action):
    """One step: six numbers stay; 1 and more is closed, 0 and less is open."""
    if action[6] >= 1:
        gripper = 0.0
    elif action[6] <= 0:
        gripper = 1.0
    else:
        gripper = 1.0 - float(action[6])
    return [*(float(value) for value in action[:6]), gripper]


@robots
def test_the_motion_stays_and_the_gripper_is_inverted(name, plain):
    drawn = generate.draw(name)
    expected = plain.stack([[standard_step(step) for step in drawn.values["steps/action"]]])
    np.testing.assert_allclose(find(name).action(drawn.columns), expected, rtol=0, atol=1e-6)


@robots
def test_open_is_one_and_closed_is_zero(name):
    opened = STORED.get(name, (0, ()))[0]
    commands = np.zeros((4, 7), np.float32)
    commands[:, 6] = [opened, 1, 1, opened]
    drawn = generate.draw(name, lengths=(3, 1), steps__action=commands)
    np.testing.assert_array_equal(find(name).action(drawn.columns)[:, 6], [1, 0, 0, 1])


@pytest.mark.parametrize("name", STORED)
def test_the_state_is_what_its_names_say(name, plain):
    drawn = generate.draw(name)
    slices = STORED[name][1]
    stored = drawn.values["steps/observation/state"]
    expected = plain.stack(
        [[[value for start, end in slices for value in step[start:end]] for step in stored]]
    )
    np.testing.assert_array_equal(state_of(name, drawn.columns), expected)


def test_the_state_of_fmb_is_its_pose_and_its_gripper(plain):
    drawn = generate.draw("fmb_dataset")
    pose = drawn.values["steps/observation/eef_pose"]
    closed = drawn.values["steps/observation/state_gripper_pose"]
    expected = plain.stack([[[*pose[i], closed[i]] for i in range(len(pose))]])
    np.testing.assert_array_equal(state_of("fmb_dataset", drawn.columns), expected)
