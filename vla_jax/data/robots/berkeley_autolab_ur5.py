"""Berkeley AUTOLab: a UR5 arm picks, stacks, sweeps and takes cloth apart; 896 episodes."""

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
    gripper = open_from_commands(columns["steps/action/gripper_closedness_action"], columns)
    return join(
        columns["steps/action/world_vector"], columns["steps/action/rotation_delta"], gripper
    )


ROBOT = Robot(
    name="berkeley_autolab_ur5",
    images={
        "primary": "steps/observation/image",
        "wrist": "steps/observation/hand_image",
    },
    instruction=("steps/observation/natural_language_instruction",),
    arrays=(
        "steps/action/world_vector",
        "steps/action/rotation_delta",
        "steps/action/gripper_closedness_action",
        "steps/observation/robot_state",
    ),
    action=_action,
    # robot_state: 6 joints, the pose (7), the gripper, whether the action was blocked.
    state=lambda columns: join(columns["steps/observation/robot_state"][:, 6:14]),
    state_names=(*QUATERNION_NAMES, "gripper, 1 closed (0..1)"),
    spec=end_effector_spec(
        frame="displacement of the end effector in the robot's base frame; roll, pitch, yaw",
        control_hz=5.0,
        gripper=f"{GRIPPER}; the dataset commands changes, 1 closes and -1 opens",
    ),
    source="TFDS catalog, berkeley_autolab_ur5 0.1.0; https://sites.google.com/view/berkeley-ur5;"
    " Octo, berkeley_autolab_ur5_dataset_transform",
)
