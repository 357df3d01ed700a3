"""UCSD kitchen: an xArm in toy kitchens; 150 episodes.

The commands are absolute poses in the xArm's own units, millimetres and degrees. Octo and OpenVLA
train on them as they are; here they are in metres and radians, which normalises to the same.
"""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import GRIPPER, end_effector_pose_spec, join, joint_names


def _action(columns: Columns) -> np.ndarray:
    # Position 3, angles 3, the gripper, whether the episode ends.
    action = columns["steps/action"]
    return join(action[:, :3] / 1000, np.deg2rad(action[:, 3:6]), np.clip(action[:, 6], 0, 1))


ROBOT = Robot(
    name="ucsd_kitchen_dataset_converted_externally_to_rlds",
    images={"primary": "steps/observation/image"},
    instruction=("steps/language_instruction",),
    arrays=("steps/action", "steps/observation/state"),
    action=_action,
    # The rest of the state is joint velocities and torques.
    state=lambda columns: join(columns["steps/observation/state"][:, :7]),
    state_names=joint_names(7),
    spec=end_effector_pose_spec(
        frame="pose of the end effector in the robot's base frame; roll, pitch, yaw",
        control_hz=2.0,
        gripper=f"{GRIPPER}; as the dataset has it",
    ),
    source="TFDS catalog, ucsd_kitchen_dataset_converted_externally_to_rlds 0.1.0;"
    " Octo, ucsd_kitchen_dataset_transform",
)
