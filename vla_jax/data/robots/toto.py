"""TOTO: a Franka arm scoops and pours; the state is its joints."""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import GRIPPER, end_effector_spec, join, joint_names


def _action(columns: Columns) -> np.ndarray:
    return join(
        columns["steps/action/world_vector"],
        columns["steps/action/rotation_delta"],
        columns["steps/action/open_gripper"],
    )


ROBOT = Robot(
    name="toto",
    images={"primary": "steps/observation/image"},
    instruction=("steps/observation/natural_language_instruction",),
    arrays=(
        "steps/action/world_vector",
        "steps/action/rotation_delta",
        "steps/action/open_gripper",
        "steps/observation/state",
    ),
    action=_action,
    state=lambda columns: join(columns["steps/observation/state"]),
    state_names=joint_names(7),
    spec=end_effector_spec(
        frame="world_vector and rotation_delta as the dataset has them, robot's base frame",
        control_hz=30.0,
        gripper=f"{GRIPPER}; open_gripper of the dataset",
    ),
    source="TFDS catalog, toto 0.1.0; Octo, toto_dataset_transform",
)
