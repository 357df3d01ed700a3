"""Datasets whose gripper is commanded by changes: a plain walk over every step says the same."""

import generate
import numpy as np
import pytest

from vla_jax.data.robots.table import ROBOTS

LENGTHS = (7, 1, 12, 4, 9)


def commands(total, seed):
    """Mostly nothing, sometimes a command: what a teleoperator's trigger gives."""
    rng = np.random.default_rng(seed)
    return rng.choice([0, 0, 0, 0, 0.05, 1, -1], total).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "turns", "scalar"),
    [
        ("fractal20220817_data", True, False),
        ("kuka", True, False),
        ("jaco_play", False, False),
        ("nyu_door_opening_surprising_effectiveness", True, False),
        ("berkeley_autolab_ur5", True, True),
    ],
)
def test_the_gripper_is_what_the_commands_made_it(name, turns, scalar, plain):
    given = commands(sum(LENGTHS), seed=len(name))
    stored = given if scalar else given[:, None]
    drawn = generate.draw(name, lengths=LENGTHS, steps__action__gripper_closedness_action=stored)
    expected, start = [], 0
    for length in LENGTHS:
        steps = range(start, start + length)
        grippers = plain.opened_by_commands([given[i] for i in steps])
        rows = []
        for i, gripper in zip(steps, grippers, strict=True):
            move = drawn.values["steps/action/world_vector"][i]
            turn = drawn.values["steps/action/rotation_delta"][i] if turns else [0, 0, 0]
            rows.append([*move, *turn, gripper])
        expected.append(rows)
        start += length
    found = ROBOTS[name].action(drawn.columns)
    np.testing.assert_array_equal(found, plain.stack(expected))


@pytest.mark.parametrize(
    ("name", "pose"),
    [
        ("fractal20220817_data", "base_pose_tool_reached"),
        ("kuka", "clip_function_input/base_pose_tool_reached"),
    ],
)
def test_the_state_is_the_reached_pose_and_the_gripper(name, pose):
    drawn = generate.draw(name)
    state = ROBOTS[name].state(drawn.columns)
    assert state.shape == (sum(generate.LENGTHS), 8)
    for i, row in enumerate(state):
        expected = [
            *drawn.values[f"steps/observation/{pose}"][i],
            *drawn.values["steps/observation/gripper_closed"][i],
        ]
        np.testing.assert_array_equal(row, expected)


def test_kuka_keeps_successes_only():
    drawn = generate.draw("kuka", lengths=(2, 3, 1), success=np.array([True, False, True]))
    keep = ROBOTS["kuka"].keep(drawn.columns)
    assert keep.tolist() == [True, True, False, False, False, True]


def test_the_ur5_state_is_pose_and_gripper():
    drawn = generate.draw("berkeley_autolab_ur5")
    state = ROBOTS["berkeley_autolab_ur5"].state(drawn.columns)
    for row, stored in zip(state, drawn.values["steps/observation/robot_state"], strict=True):
        joints, position, quaternion, gripper, blocked = np.split(stored, [6, 9, 13, 14])
        assert len(joints) == 6
        assert len(blocked) == 1
        np.testing.assert_array_equal(row, [*position, *quaternion, *gripper])


def test_the_jaco_state_is_its_joints():
    drawn = generate.draw("jaco_play")
    np.testing.assert_array_equal(
        ROBOTS["jaco_play"].state(drawn.columns), drawn.values["steps/observation/joint_pos"]
    )


@pytest.mark.parametrize("name", ["roboturk", "nyu_door_opening_surprising_effectiveness"])
def test_some_have_no_proprioception(name):
    assert ROBOTS[name].state is None
