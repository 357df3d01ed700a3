"""Dobb-E: people do household tasks with a hand-held gripper, the Stick; 5,208 episodes.

The only camera sits on the gripper. Octo and OpenVLA use it as the primary one; so do we. The
positions come from visual odometry and jump where it loses track, up to tens of metres per step.
The Open X-Embodiment sheet gives 3.75 commands per second; the videos are recorded at 30.
"""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import GRIPPER, POSE_NAMES, end_effector_spec, join


def _action(columns: Columns) -> np.ndarray:
    action = columns["steps/action"]
    return join(action[:, :6], np.clip(action[:, 6], 0, 1))


def _state(columns: Columns) -> np.ndarray:
    parts = ("xyz", "rot", "gripper")
    return join(*(columns[f"steps/observation/{part}"] for part in parts))


ROBOT = Robot(
    name="dobbe",
    images={"primary": "steps/observation/wrist_image"},
    instruction=("steps/language_instruction",),
    arrays=(
        "steps/action",
        "steps/observation/xyz",
        "steps/observation/rot",
        "steps/observation/gripper",
    ),
    action=_action,
    state=_state,
    state_names=(*POSE_NAMES, "gripper, 1 open (0..1)"),
    spec=end_effector_spec(
        frame="displacement of the gripper as the dataset has it; roll, pitch, yaw",
        control_hz=3.75,
        gripper=f"{GRIPPER}; as the dataset has it",
    ),
    source="TFDS catalog, dobbe 0.1.0; https://github.com/notmahi/dobb-e, arXiv 2311.16098;"
    " Octo, dobbe_dataset_transform",
)
