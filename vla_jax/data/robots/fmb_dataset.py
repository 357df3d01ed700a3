"""FMB, the Functional Manipulation Benchmark: a Franka arm assembles boards.

Octo and OpenVLA take the gripper as it is stored. The robot's own code closes on 1
(robot_infra/envs/franka_fmb_env.py), so here it is inverted like every other closing command.
"""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import (
    GRIPPER,
    QUATERNION_NAMES,
    closing_last,
    end_effector_spec,
    join,
)


def _state(columns: Columns) -> np.ndarray:
    return join(
        columns["steps/observation/eef_pose"], columns["steps/observation/state_gripper_pose"]
    )


ROBOT = Robot(
    name="fmb_dataset",
    images={
        "primary": "steps/observation/image_side_1",
        "secondary": "steps/observation/image_side_2",
        "wrist": "steps/observation/image_wrist_1",
    },
    instruction=("steps/language_instruction",),
    arrays=(
        "steps/action",
        "steps/observation/eef_pose",
        "steps/observation/state_gripper_pose",
    ),
    action=lambda columns: closing_last(columns["steps/action"]),
    state=_state,
    state_names=(*QUATERNION_NAMES, "gripper, 1 closed (0..1)"),
    spec=end_effector_spec(
        frame="displacement of the end effector in the robot's base frame; angles about the fixed"
        " axes x, y, z",
        control_hz=10.0,
        max_step=1.5,
        max_turn=1.5,
        units=("command of the operator's device", "command of the operator's device"),
        gripper=f"{GRIPPER}; the dataset has 1 closed, 0 open",
    ),
    source="https://functional-manipulation-benchmark.github.io;"
    " https://github.com/rail-berkeley/fmb, fmb_dataset_builder; Octo, fmb_dataset_transform",
)
