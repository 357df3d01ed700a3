"""NYU Franka play: an arm plays in toy kitchens, without instructions; 456 episodes.

Idle frames are taken out of the dataset, so a step is a step of motion rather than of time.
"""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import (
    GRIPPER,
    POSE_NAMES,
    end_effector_spec,
    join,
)


def _action(columns: Columns) -> np.ndarray:
    # Joint velocities 7, the end effector's motion 6, the gripper, whether the episode ends.
    action = columns["steps/action"]
    return join(action[:, 7:13], np.clip(action[:, 13], 0, 1))


ROBOT = Robot(
    name="nyu_franka_play_dataset_converted_externally_to_rlds",
    images={
        "primary": "steps/observation/image",
        "secondary": "steps/observation/image_additional_view",
    },
    instruction=("steps/language_instruction",),
    arrays=("steps/action", "steps/observation/state"),
    action=_action,
    # The seven joints come first.
    state=lambda columns: join(columns["steps/observation/state"][:, 7:13]),
    state_names=POSE_NAMES,
    spec=end_effector_spec(
        frame="motion from this step's pose to the next one's in the robot's base frame;"
        " roll, pitch, yaw",
        control_hz=3.0,
        gripper=f"{GRIPPER}; the dataset has 1 open, -1 closed",
    ),
    source="TFDS catalog, nyu_franka_play_dataset_converted_externally_to_rlds 0.1.0;"
    " https://play-to-policy.github.io; Octo, nyu_franka_play_dataset_transform",
)
