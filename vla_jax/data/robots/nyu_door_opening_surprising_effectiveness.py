"""VINN: a Hello Stretch opens cabinets and doors, seen from its gripper; 435 episodes, no state."""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import GRIPPER, end_effector_spec, join, open_from_commands


def _action(columns: Columns) -> np.ndarray:
    gripper = open_from_commands(columns["steps/action/gripper_closedness_action"][:, 0], columns)
    return join(
        columns["steps/action/world_vector"], columns["steps/action/rotation_delta"], gripper
    )


ROBOT = Robot(
    name="nyu_door_opening_surprising_effectiveness",
    images={"wrist": "steps/observation/image"},
    instruction=("steps/observation/natural_language_instruction",),
    arrays=(
        "steps/action/world_vector",
        "steps/action/rotation_delta",
        "steps/action/gripper_closedness_action",
    ),
    action=_action,
    spec=end_effector_spec(
        frame="velocity of the end effector; angular velocity about x, y, z",
        control_hz=3.0,
        units=("velocity command", "angular velocity command"),
        gripper=f"{GRIPPER}; the dataset commands changes, + closes and - opens",
    ),
    source="TFDS catalog, nyu_door_opening_surprising_effectiveness 0.1.0; arXiv 2112.01511; Octo,"
    " nyu_door_opening_dataset_transform",
)
