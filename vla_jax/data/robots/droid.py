"""DROID: Franka arms in 564 scenes, teleoperated; up to three instructions per episode."""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import (
    GRIPPER,
    POSE_NAMES,
    end_effector_spec,
    join,
    open_fraction,
)

IDLE = 1e-5  # share of the largest step: a command below it in every dimension is none


def _action(columns: Columns) -> np.ndarray:
    return join(
        columns["steps/action_dict/cartesian_velocity"],
        open_fraction(columns["steps/action_dict/gripper_position"]),
    )


def _state(columns: Columns) -> np.ndarray:
    return join(
        columns["steps/observation/cartesian_position"],
        columns["steps/observation/gripper_position"],
    )


def _moves(columns: Columns) -> np.ndarray:
    return np.abs(columns["steps/action_dict/cartesian_velocity"]).max(axis=1) > IDLE


ROBOT = Robot(
    name="droid",
    images={
        "primary": "steps/observation/exterior_image_1_left",
        "secondary": "steps/observation/exterior_image_2_left",
        "wrist": "steps/observation/wrist_image_left",
    },
    instruction=(
        "steps/language_instruction",
        "steps/language_instruction_2",
        "steps/language_instruction_3",
    ),
    arrays=(
        "steps/action_dict/cartesian_velocity",
        "steps/action_dict/gripper_position",
        "steps/observation/cartesian_position",
        "steps/observation/gripper_position",
    ),
    action=_action,
    state=_state,
    state_names=(*POSE_NAMES, "gripper, 1 closed (0..1)"),
    # The operator pauses often, and a policy that learns to pause never starts again.
    keep=_moves,
    spec=end_effector_spec(
        frame="displacement of the end effector in the robot's base frame; Euler angles",
        control_hz=15.0,
        max_step=1.0,
        max_turn=1.0,
        units=("share of 0.075 metres per step", "share of 0.15 radians per step"),
        gripper=f"{GRIPPER}; the dataset has 1 closed",
    ),
    source="https://droid-dataset.github.io, 1.0.0, and its controller (robot_ik_solver.py);"
    " OpenVLA, droid_baseact_transform and zero_action_filter",
)
