"""CMU Stretch: a mobile Hello Stretch acts in kitchens; 135 episodes."""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import GRIPPER, end_effector_spec, join


def _action(columns: Columns) -> np.ndarray:
    # Position 3, rotation 3, the gripper, whether the episode ends.
    action = columns["steps/action"]
    return join(action[:, :6], np.clip(action[:, 6], 0, 1))


ROBOT = Robot(
    name="cmu_stretch",
    images={"primary": "steps/observation/image"},
    instruction=("steps/language_instruction",),
    arrays=("steps/action", "steps/observation/state"),
    action=_action,
    state=lambda columns: join(columns["steps/observation/state"]),
    state_names=("x (m)", "y (m)", "z (m)", "gripper position"),
    spec=end_effector_spec(
        frame="displacement of the end effector in the robot's base frame; only x and z move, and"
        " nothing turns",
        control_hz=10.0,
        gripper=f"{GRIPPER}; as the dataset has it",
    ),
    source="TFDS catalog, cmu_stretch 0.1.0; https://robo-affordances.github.io;"
    " Octo, cmu_stretch_dataset_transform",
)
