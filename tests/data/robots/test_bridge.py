"""BridgeData V2: actions relabelled with the reached pose, grippers made binary."""

import math

import generate
import numpy as np
import pytest

from vla_jax.data.robots.table import ROBOTS

NAMES = ("bridge_orig", "bridge_dataset")


@pytest.mark.parametrize("name", NAMES)
def test_the_action_leads_to_the_next_pose(name, plain):
    lengths = (6, 1, 9, 2)
    rng = np.random.default_rng(0)
    stored = rng.uniform(-1, 1, (sum(lengths), 7)).astype(np.float32)
    stored[:, 6] = rng.choice([0, 0.01, 0.3, 0.7, 0.99, 1], sum(lengths))
    drawn = generate.draw(name, lengths=lengths, steps__action=stored)
    state = drawn.values["steps/observation/state"]
    expected, start = [], 0
    for length in lengths:
        end = start + length
        grippers = plain.binarized(list(stored[start:end, 6]))
        rows = []
        for i in range(start, end):
            following = min(i + 1, end - 1)  # the last pose is not left
            move = [state[following][k] - state[i][k] for k in range(3)]
            turn = []
            for k in range(3, 6):
                angle = float(state[following][k]) - float(state[i][k])
                turn.append(math.atan2(math.sin(angle), math.cos(angle)))
            rows.append([*move, *turn, grippers[i - start]])
        expected.append(rows)
        start = end
    found = ROBOTS[name].action(drawn.columns)
    np.testing.assert_allclose(found, plain.stack(expected), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_first_and_last_steps_are_dropped(name):
    # The first action is all zeros, the last step has no next pose.
    keep = ROBOTS[name].keep(generate.draw(name, lengths=(4, 1, 2, 3)).columns)
    assert keep.tolist() == [
        *[False, True, True, False],
        False,
        False,
        False,
        *[False, True, False],
    ]


def test_the_state_is_as_stored():
    drawn = generate.draw("bridge_orig")
    np.testing.assert_array_equal(
        ROBOTS["bridge_orig"].state(drawn.columns), drawn.values["steps/observation/state"]
    )


def test_a_gripper_on_its_way_takes_the_state_it_reaches():
    stored = np.zeros((5, 7), np.float32)
    stored[:, 6] = [1, 0.8, 0.3, 0.02, 0.6]
    drawn = generate.draw("bridge_orig", lengths=(5,), steps__action=stored)
    gripper = ROBOTS["bridge_orig"].action(drawn.columns)[:, 6]
    np.testing.assert_allclose(gripper, [1, 0, 0, 0, 0.6], rtol=1e-6)
