"""The shared conventions against plain walks through each episode."""

import numpy as np
import pytest

from vla_jax.data.robots import standardize
from vla_jax.data.robots.robot import Columns


def columns(*lengths):
    return Columns(arrays={}, episode=np.repeat(np.arange(len(lengths)), lengths))


def split(values, lengths):
    return np.split(values, np.cumsum(lengths)[:-1])


@pytest.mark.parametrize("seed", range(5))
def test_commands_become_states_as_in_the_plain_walk(seed, plain):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 12, 20)
    commands = rng.choice([-1.0, -0.05, 0.0, 0.0, 0.0, 0.1, 0.3, 1.0], lengths.sum())
    expected = np.concatenate([plain.opened_by_commands(c) for c in split(commands, lengths)])
    found = standardize.open_from_commands(commands, columns(*lengths))
    np.testing.assert_array_equal(found, expected)


def test_before_the_first_command_the_gripper_is_in_the_other_state():
    found = standardize.open_from_commands(np.array([0, 0, 1, 0, -1, 0.0]), columns(6))
    np.testing.assert_array_equal(found, [1, 1, 0, 0, 1, 1])
    found = standardize.open_from_commands(np.array([0, -1, 0, 0.0]), columns(4))
    np.testing.assert_array_equal(found, [0, 1, 1, 1])


def test_without_commands_the_gripper_is_open():
    found = standardize.open_from_commands(np.zeros(3), columns(3))
    np.testing.assert_array_equal(found, [1, 1, 1])


@pytest.mark.parametrize("seed", range(5))
def test_binarize_as_in_the_plain_walk(seed, plain):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 12, 20)
    values = rng.choice([0.0, 0.02, 0.05, 0.4, 0.6, 0.95, 0.97, 1.0], lengths.sum())
    expected = np.concatenate([plain.binarized(v) for v in split(values, lengths)])
    found = standardize.binarize(values, columns(*lengths))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_binarize_gives_what_lies_between_the_state_reached_next():
    values = np.array([1, 0.7, 0.4, 0, 0.3, 0.8, 1, 0.6])
    found = standardize.binarize(values, columns(8))
    np.testing.assert_allclose(found, [1, 0, 0, 0, 1, 1, 1, 0.6], rtol=1e-6)


def test_reached_delta_takes_the_short_way_around():
    pose = np.zeros((3, 6), np.float32)
    pose[:, 0] = [0, 1, 3]
    pose[:, 5] = [3.1, -3.1, -3.0]
    found = standardize.reached_delta(pose, columns(3))
    np.testing.assert_allclose(found[:, 0], [1, 2, 0])
    np.testing.assert_allclose(found[:, 5], [2 * np.pi - 6.2, 0.1, 0], atol=1e-6)


def test_euler_angles_rebuild_the_rotation_of_the_quaternion():
    rng = np.random.default_rng(0)
    xyzw = rng.normal(size=(200, 4))  # of any length
    roll, pitch, yaw = standardize.euler_from_quaternion(xyzw).T
    x, y, z, w = (xyzw / np.linalg.norm(xyzw, axis=1, keepdims=True)).T
    for k in range(len(xyzw)):
        expected = np.array(
            [
                [1 - 2 * (y[k] ** 2 + z[k] ** 2), 2 * (x[k] * y[k] - w[k] * z[k])],
                [2 * (x[k] * y[k] + w[k] * z[k]), 1 - 2 * (x[k] ** 2 + z[k] ** 2)],
                [2 * (x[k] * z[k] - w[k] * y[k]), 2 * (y[k] * z[k] + w[k] * x[k])],
            ]
        )
        np.testing.assert_allclose(turn(roll[k], pitch[k], yaw[k])[:, :2], expected, atol=1e-6)


def turn(roll, pitch, yaw):
    """The rotation matrix: yaw about z, then pitch about y, then roll about x."""

    def about(axis, angle):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        matrix = np.eye(3)
        matrix[a, a] = matrix[b, b] = np.cos(angle)
        matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
        return matrix

    return about(2, yaw) @ about(1, pitch) @ about(0, roll)


def test_open_fraction_inverts_and_cuts_off():
    found = standardize.open_fraction(np.array([-1, 0, 0.25, 1, 2]))
    np.testing.assert_array_equal(found, [1, 1, 0.75, 0, 0])


def test_an_empty_dataset_stays_empty():
    none = Columns(arrays={}, episode=np.zeros(0, int))
    assert standardize.open_from_commands(np.zeros(0), none).shape == (0,)
    assert standardize.binarize(np.zeros(0), none).shape == (0,)
