"""Stanford HYDRA: a Franka arm makes coffee, makes toast, sorts dishes; 570 episodes.

The copy that Open X-Embodiment publishes stores the pictures of both cameras with red and blue
exchanged; copies prepared by rlds_dataset_mod have them in order.
"""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import (
    GRIPPER,
    POSE_NAMES,
    closing_last,
    end_effector_spec,
    join,
)


def _state(columns: Columns) -> np.ndarray:
    # Position 3, quaternion 4, Euler angles 3, joints 7, joint velocities 7, then the gripper's
    # width, position and whether it is open.
    state = columns["steps/observation/state"]
    return join(state[:, :3], state[:, 7:10], state[:, 24])


ROBOT = Robot(
    name="stanford_hydra_dataset_converted_externally_to_rlds",
    images={
        "primary": "steps/observation/image",
        "wrist": "steps/observation/wrist_image",
    },
    instruction=("steps/language_instruction",),
    arrays=("steps/action", "steps/observation/state"),
    action=lambda columns: closing_last(columns["steps/action"]),
    state=_state,
    state_names=(*POSE_NAMES, "gripper width (m)"),
    spec=end_effector_spec(
        frame="displacement of the end effector in the robot's base frame; roll, pitch, yaw",
        control_hz=10.0,
        gripper=f"{GRIPPER}; the dataset has 1 closed, 0 open",
    ),
    source="TFDS catalog, stanford_hydra_dataset_converted_externally_to_rlds 0.1.0;"
    " https://sites.google.com/view/hydra-il-2023; Octo, stanford_hydra_dataset_transform",
)
