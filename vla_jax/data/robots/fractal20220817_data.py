"""RT-1's kitchens: the Google robot picks, places, opens and closes; 87,212 episodes."""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import (
    GRIPPER,
    QUATERNION_NAMES,
    end_effector_spec,
    join,
    open_from_commands,
)


def _action(columns: Columns) -> np.ndarray:
    # The mobile base's displacement is left out: the seven dimensions are those of an arm.
    gripper = open_from_commands(columns["steps/action/gripper_closedness_action"][:, 0], columns)
    return join(
        columns["steps/action/world_vector"], columns["steps/action/rotation_delta"], gripper
    )


def _state(columns: Columns) -> np.ndarray:
    return join(
        columns["steps/observation/base_pose_tool_reached"],
        columns["steps/observation/gripper_closed"],
    )


ROBOT = Robot(
    name="fractal20220817_data",
    images={"primary": "steps/observation/image"},
    instruction=("steps/observation/natural_language_instruction",),
    arrays=(
        "steps/action/world_vector",
        "steps/action/rotation_delta",
        "steps/action/gripper_closedness_action",
        "steps/observation/base_pose_tool_reached",
        "steps/observation/gripper_closed",
    ),
    action=_action,
    state=_state,
    state_names=(*QUATERNION_NAMES, "gripper, 1 closed (0..1)"),
    spec=end_effector_spec(
        frame="displacement of the end effector in the robot's base frame; roll, pitch, yaw",
        control_hz=3.0,
        max_step=2.0,
        max_turn=np.pi / 2,
        gripper=f"{GRIPPER}; the dataset commands changes, + closes and - opens",
    ),
    source="TFDS catalog, fractal20220817_data 0.1.0; arXiv 2212.06817; Octo,"
    " rt1_dataset_transform",
)
