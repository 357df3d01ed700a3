"""IAM Lab: a Franka arm picks objects and inserts them; 631 episodes.

The commands are absolute poses, which Octo and OpenVLA train on as they are; so do we.
"""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import (
    GRIPPER,
    end_effector_pose_spec,
    euler_from_quaternion,
    join,
    joint_names,
)


def _action(columns: Columns) -> np.ndarray:
    action = columns["steps/action"]
    gripper = np.clip(action[:, 7], 0, 1)
    return join(action[:, :3], euler_from_quaternion(action[:, 3:7]), gripper)


ROBOT = Robot(
    name="iamlab_cmu_pickup_insert_converted_externally_to_rlds",
    images={
        "primary": "steps/observation/image",
        "wrist": "steps/observation/wrist_image",
    },
    instruction=("steps/language_instruction",),
    arrays=("steps/action", "steps/observation/state"),
    action=_action,
    # The rest of the state is joint torques and the force at the end effector.
    state=lambda columns: join(columns["steps/observation/state"][:, :8]),
    state_names=(*joint_names(7), "gripper, 1 open (0..1)"),
    spec=end_effector_pose_spec(
        frame="pose of the end effector in the robot's base frame; the quaternion (x, y, z, w) of"
        " the dataset as roll, pitch, yaw",
        control_hz=20.0,
        gripper=f"{GRIPPER}; as the dataset has it",
    ),
    source="TFDS catalog, iamlab_cmu_pickup_insert_converted_externally_to_rlds 0.1.0;"
    " Octo, iamlab_pick_insert_dataset_transform",
)
