"""FurnitureBench: a Franka arm assembles furniture; 5,100 long episodes."""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import (
    GRIPPER,
    QUATERNION_NAMES,
    end_effector_spec,
    euler_from_quaternion,
    join,
    open_fraction,
)


def _action(columns: Columns) -> np.ndarray:
    action = columns["steps/action"]
    return join(action[:, :3], euler_from_quaternion(action[:, 3:7]), open_fraction(action[:, 7]))


def _state(columns: Columns) -> np.ndarray:
    # Between the pose and the gripper's width: velocities and everything about the joints.
    state = columns["steps/observation/state"]
    return join(state[:, :7], state[:, 34])


ROBOT = Robot(
    name="furniture_bench_dataset_converted_externally_to_rlds",
    images={
        "primary": "steps/observation/image",
        "wrist": "steps/observation/wrist_image",
    },
    instruction=("steps/language_instruction",),
    arrays=("steps/action", "steps/observation/state"),
    action=_action,
    state=_state,
    state_names=(*QUATERNION_NAMES, "gripper width (m)"),
    spec=end_effector_spec(
        frame="displacement of the end effector in the robot's base frame; the quaternion of the"
        " dataset as roll, pitch, yaw",
        control_hz=10.0,
        gripper=f"{GRIPPER}; the dataset has 1 closed, -1 open",
    ),
    source="https://clvrai.github.io/furniture-bench; Octo, furniture_bench_dataset_transform",
)
