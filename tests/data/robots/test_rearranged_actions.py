"""Datasets whose action has its parts elsewhere, in other units or in another form of rotation."""

import math

import generate
import numpy as np
import pytest

from vla_jax.data.robots.table import find

EXTERNAL = "converted_externally_to_rlds"


def state_of(name, columns):
    robot = find(name)
    assert robot.state is not None
    return robot.state(columns)


def clipped(value):
    return min(max(float(value), 0.0), 1.0)


def euler(x, y, z, w):
    """Roll, pitch, yaw of a quaternion, through its rotation matrix."""
    length = math.sqrt(x * x + y * y + z * z + w * w)
    x, y, z, w = x / length, y / length, z / length, w / length
    matrix = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return [
        math.atan2(matrix[2][1], matrix[2][2]),
        -math.asin(matrix[2][0]),
        math.atan2(matrix[1][0], matrix[0][0]),
    ]


def nyu_franka_play(action, _):
    """7 joint velocities, the end effector's motion, the gripper (1 open, -1 closed), the end."""
    return [*action[7:13], clipped(action[13])]


def furniture_bench(action, _):
    """The step, its rotation as a quaternion, the gripper (1 closed, -1 open)."""
    return [*action[:3], *euler(*action[3:7]), 1 - clipped(action[7])]


def iamlab_cmu_pickup_insert(action, _):
    """The pose to reach, its rotation as a quaternion, the gripper (1 open)."""
    return [*action[:3], *euler(*action[3:7]), clipped(action[7])]


def ucsd_kitchen(action, _):
    """The pose to reach in millimetres and degrees, the gripper (1 open), the end."""
    metres = [float(value) / 1000 for value in action[:3]]
    return [*metres, *(math.radians(value) for value in action[3:6]), clipped(action[6])]


def dlr_edan_shared_control(action, _):
    """The step, its angles about z, x, y, the gripper (1 closed)."""
    z, x, y = action[3:6]
    return [*action[:3], x, y, z, 1 - clipped(action[6])]


def berkeley_fanuc_manipulation(action, state):
    """The step; the gripper only in the state, behind six joints (1 closed)."""
    return [*action, 1 - clipped(state[6])]


def cmu_stretch(action, _):
    """The step, the gripper (1 open), the end."""
    return [*action[:6], clipped(action[6])]


def dobbe(action, _):
    """The step, the gripper (1 open)."""
    return [*action[:6], clipped(action[6])]


# Name -> (one step of its action, where its state lies in the stored one).
RULES = {
    f"nyu_franka_play_dataset_{EXTERNAL}": (nyu_franka_play, range(7, 13)),
    f"furniture_bench_dataset_{EXTERNAL}": (furniture_bench, (*range(7), 34)),
    f"iamlab_cmu_pickup_insert_{EXTERNAL}": (iamlab_cmu_pickup_insert, range(8)),
    f"ucsd_kitchen_dataset_{EXTERNAL}": (ucsd_kitchen, range(7)),
    f"dlr_edan_shared_control_{EXTERNAL}": (dlr_edan_shared_control, (0, 1, 2, 4, 5, 3, 6)),
    "berkeley_fanuc_manipulation": (berkeley_fanuc_manipulation, range(7)),
    "cmu_stretch": (cmu_stretch, range(4)),
    "dobbe": (dobbe, None),
}
POSE_TARGETS = [f"iamlab_cmu_pickup_insert_{EXTERNAL}", f"ucsd_kitchen_dataset_{EXTERNAL}"]


@pytest.mark.parametrize("name", RULES)
def test_the_action_is_rearranged(name, plain):
    drawn = generate.draw(name)
    rule, _ = RULES[name]
    actions = drawn.values["steps/action"]
    states = drawn.values["steps/observation/state"]
    expected = plain.stack([[rule(a, s) for a, s in zip(actions, states, strict=True)]])
    np.testing.assert_allclose(find(name).action(drawn.columns), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, (_, places) in RULES.items() if places])
def test_the_state_is_what_its_names_say(name, plain):
    drawn = generate.draw(name)
    places = RULES[name][1]
    stored = drawn.values["steps/observation/state"]
    expected = plain.stack([[[step[place] for place in places] for step in stored]])
    np.testing.assert_array_equal(state_of(name, drawn.columns), expected)


def test_the_state_of_dobbe_is_its_pose_and_its_gripper(plain):
    drawn = generate.draw("dobbe")
    xyz, rot, gripper = (
        drawn.values[f"steps/observation/{part}"] for part in ("xyz", "rot", "gripper")
    )
    expected = plain.stack([[[*xyz[i], *rot[i], *gripper[i]] for i in range(len(xyz))]])
    np.testing.assert_array_equal(state_of("dobbe", drawn.columns), expected)


@pytest.mark.parametrize("name", POSE_TARGETS)
def test_a_pose_to_reach_is_not_called_a_step(name):
    spec = find(name).spec
    assert spec.names == ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    assert all("absolute" in unit for unit in spec.units[:6])


@pytest.mark.parametrize("name", RULES)
def test_an_open_gripper_is_one(name):
    # The gripper's place, and what the dataset writes there for open and for closed.
    feature, place, opened, closed = {
        f"nyu_franka_play_dataset_{EXTERNAL}": ("steps/action", 13, 1, -1),
        f"furniture_bench_dataset_{EXTERNAL}": ("steps/action", 7, -1, 1),
        f"iamlab_cmu_pickup_insert_{EXTERNAL}": ("steps/action", 7, 1, 0),
        f"dlr_edan_shared_control_{EXTERNAL}": ("steps/action", 6, 0, 1),
        "berkeley_fanuc_manipulation": ("steps/observation/state", 6, 0, 1),
    }.get(name, ("steps/action", 6, 1, 0))
    values = generate.draw(name, lengths=(3, 1)).values[feature]
    values[:, place] = [opened, closed, closed, opened]
    drawn = generate.draw(name, lengths=(3, 1), **{feature: values})
    np.testing.assert_array_equal(find(name).action(drawn.columns)[:, 6], [1, 0, 0, 1])
