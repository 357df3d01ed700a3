"""QT-Opt's bins: a Kuka arm grasps, by script and by policy; the successful of 580,392 episodes."""

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
    gripper = open_from_commands(columns["steps/action/gripper_closedness_action"][:, 0], columns)
    return join(
        columns["steps/action/world_vector"], columns["steps/action/rotation_delta"], gripper
    )


def _state(columns: Columns) -> np.ndarray:
    return join(
        columns["steps/observation/clip_function_input/base_pose_tool_reached"],
        columns["steps/observation/gripper_closed"],
    )


ROBOT = Robot(
    name="kuka",
    images={"primary": "steps/observation/image"},
    instruction=("steps/observation/natural_language_instruction",),
    arrays=(
        "steps/action/world_vector",
        "steps/action/rotation_delta",
        "steps/action/gripper_closedness_action",
        "steps/observation/clip_function_input/base_pose_tool_reached",
        "steps/observation/gripper_closed",
        "success",
    ),
    action=_action,
    state=_state,
    state_names=(*QUATERNION_NAMES, "gripper, 1 closed (0..1)"),
    # Most episodes are failed grasps of a policy that was still learning.
    keep=lambda columns: columns["success"] != 0,
    spec=end_effector_spec(
        frame="displacement of the end effector in the robot's base frame; roll, pitch, yaw",
        control_hz=10.0,
        gripper=f"{GRIPPER}; the dataset commands changes, + closes and - opens",
    ),
    source="TFDS catalog, kuka 0.1.0; Octo, kuka_dataset_transform; OpenVLA keeps successes only",
)
