"""RoboTurk: a Sawyer arm folds laundry, stacks bowls and searches; 1,796 episodes, no state."""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import GRIPPER, end_effector_spec, join, open_fraction


def _action(columns: Columns) -> np.ndarray:
    return join(
        columns["steps/action/world_vector"],
        columns["steps/action/rotation_delta"],
        open_fraction(columns["steps/action/gripper_closedness_action"]),
    )


ROBOT = Robot(
    name="roboturk",
    images={"primary": "steps/observation/front_rgb"},
    instruction=("steps/observation/natural_language_instruction",),
    arrays=(
        "steps/action/world_vector",
        "steps/action/rotation_delta",
        "steps/action/gripper_closedness_action",
    ),
    action=_action,
    spec=end_effector_spec(
        frame="displacement of the end effector in the robot's base frame; roll, pitch, yaw",
        control_hz=10.0,
        gripper=f"{GRIPPER}; the dataset has 1 closed, 0 and below open",
    ),
    source="TFDS catalog, roboturk 0.1.0; Octo, roboturk_dataset_transform",
)
