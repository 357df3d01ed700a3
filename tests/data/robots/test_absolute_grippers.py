"""Datasets whose gripper is stored as a state: a plain walk over every step says the same."""

import generate
import numpy as np
import pytest

from vla_jax.data.robots.table import ROBOTS


def steps_of(drawn):
    """Yields the values of each step, by the feature's last names."""
    for i in range(sum(drawn.lengths)):
        yield {
            name.removeprefix("steps/").removeprefix("action/").removeprefix("observation/"): v[i]
            for name, v in drawn.values.items()
            if name.startswith("steps/")
        }


def closed_share(value):
    return 1 - min(max(float(value), 0.0), 1.0)


def taco_play(step):
    # -1 closed, 1 open; below 0 counts as closed.
    *arm, gripper = step["rel_actions_world"]
    return [*arm, min(max(float(gripper), 0.0), 1.0)]


def berkeley_cable_routing(step):
    # It never lets go of the cable.
    return [*step["world_vector"], *step["rotation_delta"], 0.0]


def roboturk(step):
    # 1 is closed.
    (gripper,) = step["gripper_closedness_action"]
    return [*step["world_vector"], *step["rotation_delta"], closed_share(gripper)]


def viola(step):
    # 1 is closed, and a scalar.
    gripper = closed_share(step["gripper_closedness_action"])
    return [*step["world_vector"], *step["rotation_delta"], gripper]


def toto(step):
    return [*step["world_vector"], *step["rotation_delta"], 1.0 if step["open_gripper"] else 0.0]


def language_table(step):
    # Two dimensions in the plane; nothing to grip with counts as open.
    dx, dy = step["action"]
    return [dx, dy, 0.0, 0.0, 0.0, 0.0, 1.0]


def language_table_sim(step):
    return list(step["action"])


def metaworld(step):
    # Written by us, in the units of the adapter.
    return list(step["action"])


def bc_z(step):
    # Ten future steps lie one after the other; the first is meant. 1 is closed.
    moves = [step["future/xyz_residual"][k : k + 3] for k in range(0, 30, 3)]
    turns = [step["future/axis_angle_residual"][k : k + 3] for k in range(0, 30, 3)]
    return [*moves[0], *turns[0], 1.0 - step["future/target_close"][0]]


def droid(step):
    # Cartesian velocity; gripper_position 1 is closed.
    (gripper,) = step["action_dict/gripper_position"]
    return [*step["action_dict/cartesian_velocity"], 1.0 - gripper]


def libero(step):
    # -1 opens, 1 closes; the half below 0 counts as open.
    *arm, gripper = step["action"]
    return [*arm, 1.0 - max(float(gripper), 0.0)]


def aloha(step):
    # Absolute joint positions, as they are.
    return list(step["action"])


WALKS = {
    walk.__name__: walk
    for walk in (
        *(taco_play, berkeley_cable_routing, roboturk, viola, toto),
        *(language_table, language_table_sim, metaworld, bc_z, droid, aloha),
    )
}
WALKS |= {f"libero_{suite}_no_noops": libero for suite in ("spatial", "object", "goal", "10")}


@pytest.mark.parametrize("name", WALKS)
def test_the_action_is_that_of_the_plain_walk(name):
    drawn = generate.draw(name, seed=5)
    expected = np.array([WALKS[name](step) for step in steps_of(drawn)], np.float32)
    np.testing.assert_allclose(ROBOTS[name].action(drawn.columns), expected, rtol=1e-6, atol=1e-7)


STATES = {
    # End effector, gripper width; the joints after them are left out.
    "taco_play": lambda step: step["robot_obs"][:7],
    "berkeley_cable_routing": lambda step: step["robot_state"],
    "viola": lambda step: [*step["joint_states"], *step["gripper_states"]],
    "toto": lambda step: step["state"],
    "language_table": lambda step: step["effector_translation"],
    "language_table_sim": lambda step: step["effector_translation"],
    "metaworld": lambda step: step["state"],
    "bc_z": lambda step: [
        *step["present/xyz"],
        *step["present/axis_angle"],
        *step["present/sensed_close"],
    ],
    "droid": lambda step: [*step["cartesian_position"], *step["gripper_position"]],
    "libero_goal_no_noops": lambda step: step["state"],
    "aloha": lambda step: step["state"],
}


@pytest.mark.parametrize("name", STATES)
def test_the_state_is_that_of_the_plain_walk(name):
    drawn = generate.draw(name, seed=6)
    expected = np.array([STATES[name](step) for step in steps_of(drawn)], np.float32)
    np.testing.assert_allclose(ROBOTS[name].state(drawn.columns), expected, rtol=1e-6)


def test_droid_drops_the_steps_in_which_the_arm_rests():
    velocity = np.zeros((6, 6))
    velocity[1, 4] = -0.3
    velocity[2, 0] = 1e-7
    velocity[5, 5] = 1
    drawn = generate.draw("droid", lengths=(4, 2), steps__action_dict__cartesian_velocity=velocity)
    keep = ROBOTS["droid"].keep(drawn.columns)
    # A moving gripper alone does not count: the arm rests.
    assert keep.tolist() == [False, True, False, False, False, True]


def test_aloha_names_both_arms():
    spec = ROBOTS["aloha"].spec
    assert spec.size == 14
    assert spec.names[0] == "left_waist"
    assert spec.names[6] == "left_gripper"
    assert spec.names[13] == "right_gripper"
    assert spec.units[13] == "0..1"
