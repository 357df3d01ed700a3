"""JACO Play: a Jaco 2 arm picks and places on a table; 976 episodes."""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import (
    GRIPPER,
    end_effector_spec,
    join,
    joint_names,
    open_from_commands,
    zeros,
)


def _action(columns: Columns) -> np.ndarray:
    gripper = open_from_commands(columns["steps/action/gripper_closedness_action"][:, 0], columns)
    return join(columns["steps/action/world_vector"], zeros(columns, 3), gripper)


ROBOT = Robot(
    name="jaco_play",
    images={
        "primary": "steps/observation/image",
        "wrist": "steps/observation/image_wrist",
    },
    instruction=("steps/observation/natural_language_instruction",),
    arrays=(
        "steps/action/world_vector",
        "steps/action/gripper_closedness_action",
        "steps/observation/joint_pos",
    ),
    action=_action,
    state=lambda columns: join(columns["steps/observation/joint_pos"]),
    state_names=(*joint_names(6), "finger 1 (rad)", "finger 2 (rad)"),
    spec=end_effector_spec(
        frame="displacement of the end effector in the robot's base frame; it is never turned",
        control_hz=10.0,
        gripper=f"{GRIPPER}; the dataset commands changes, + closes and - opens",
    ),
    source="TFDS catalog, jaco_play 0.1.0; Octo, jaco_play_dataset_transform",
)
