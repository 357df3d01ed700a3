"""TACO Play: a Franka arm plays with a toy kitchen; 3,242 episodes."""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import GRIPPER, POSE_NAMES, end_effector_spec, join


def _action(columns: Columns) -> np.ndarray:
    action = columns["steps/action/rel_actions_world"]
    return join(action[:, :6], np.clip(action[:, 6], 0, 1))


ROBOT = Robot(
    name="taco_play",
    images={
        "primary": "steps/observation/rgb_static",
        "wrist": "steps/observation/rgb_gripper",
    },
    instruction=("steps/observation/natural_language_instruction",),
    arrays=("steps/action/rel_actions_world", "steps/observation/robot_obs"),
    action=_action,
    # Pose and gripper width; the joints follow them.
    state=lambda columns: join(columns["steps/observation/robot_obs"][:, :7]),
    state_names=(*POSE_NAMES, "gripper width (m)"),
    spec=end_effector_spec(
        frame="displacement of the end effector in the robot's base frame; Euler angles in the"
        " dataset's order",
        control_hz=15.0,
        max_step=1.0,
        max_turn=1.0,
        units=("share of the largest step", "share of the largest turn"),
        # The catalog says -1 opens; the recordings, as CALVIN's, say 1 opens.
        gripper=f"{GRIPPER}; the dataset has -1 closed, 1 open",
    ),
    source="TFDS catalog, taco_play 0.1.0; Octo, taco_play_dataset_transform",
)
