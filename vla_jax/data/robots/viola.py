"""VIOLA: a Franka arm makes coffee and lays the table; 135 episodes."""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import (
    GRIPPER,
    end_effector_spec,
    join,
    joint_names,
    open_fraction,
)


def _action(columns: Columns) -> np.ndarray:
    return join(
        columns["steps/action/world_vector"],
        columns["steps/action/rotation_delta"],
        open_fraction(columns["steps/action/gripper_closedness_action"]),
    )


def _state(columns: Columns) -> np.ndarray:
    return join(
        columns["steps/observation/joint_states"], columns["steps/observation/gripper_states"]
    )


ROBOT = Robot(
    name="viola",
    images={
        "primary": "steps/observation/agentview_rgb",
        "wrist": "steps/observation/eye_in_hand_rgb",
    },
    instruction=("steps/observation/natural_language_instruction",),
    arrays=(
        "steps/action/world_vector",
        "steps/action/rotation_delta",
        "steps/action/gripper_closedness_action",
        "steps/observation/joint_states",
        "steps/observation/gripper_states",
    ),
    action=_action,
    state=_state,
    state_names=(*joint_names(7), "gripper width (m)"),
    spec=end_effector_spec(
        frame="command of the operational space controller in the robot's base frame",
        control_hz=20.0,
        max_step=1.0,
        max_turn=1.0,
        units=("share of the largest step", "share of the largest turn"),
        gripper=f"{GRIPPER}; the dataset has 1 closed, 0 and below open",
    ),
    source="TFDS catalog, viola 0.1.0; Octo, viola_dataset_transform",
)
