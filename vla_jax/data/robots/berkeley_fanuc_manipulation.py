"""Berkeley Fanuc: a Mate 200iD arm opens, closes, picks and places; 415 episodes.

The copy that Open X-Embodiment publishes stores the pictures of both cameras with red and blue
exchanged; copies prepared by rlds_dataset_mod have them in order.
"""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import (
    GRIPPER,
    end_effector_spec,
    join,
    joint_names,
    open_fraction,
)


def _action(columns: Columns) -> np.ndarray:
    # No command for the gripper is stored, so its present state stands for one.
    closed = columns["steps/observation/state"][:, 6]
    return join(columns["steps/action"], open_fraction(closed))


ROBOT = Robot(
    name="berkeley_fanuc_manipulation",
    images={
        "primary": "steps/observation/image",
        "wrist": "steps/observation/wrist_image",
    },
    instruction=("steps/language_instruction",),
    arrays=("steps/action", "steps/observation/state"),
    action=_action,
    # The rest of the state is joint velocities.
    state=lambda columns: join(columns["steps/observation/state"][:, :7]),
    state_names=(*joint_names(6), "gripper, 1 closed (0..1)"),
    spec=end_effector_spec(
        frame="displacement of the end effector in the robot's base frame; roll, pitch, yaw",
        control_hz=10.0,
        gripper=f"{GRIPPER}; the state of the gripper, 1 closed in the dataset",
    ),
    source="TFDS catalog, berkeley_fanuc_manipulation 0.1.0;"
    " https://sites.google.com/berkeley.edu/fanuc-manipulation;"
    " Octo, berkeley_fanuc_dataset_transform",
)
