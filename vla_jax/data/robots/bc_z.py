"""BC-Z: the Google robot, teleoperated and corrected by hand, picks and places; 39,350 episodes."""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import GRIPPER, end_effector_spec, join, open_fraction


def _action(columns: Columns) -> np.ndarray:
    # Each feature holds the next ten steps; the first is this one's.
    return join(
        columns["steps/action/future/xyz_residual"][:, :3],
        columns["steps/action/future/axis_angle_residual"][:, :3],
        open_fraction(columns["steps/action/future/target_close"][:, 0]),
    )


def _state(columns: Columns) -> np.ndarray:
    return join(
        columns["steps/observation/present/xyz"],
        columns["steps/observation/present/axis_angle"],
        columns["steps/observation/present/sensed_close"],
    )


ROBOT = Robot(
    name="bc_z",
    images={"primary": "steps/observation/image"},
    instruction=("steps/observation/natural_language_instruction",),
    arrays=(
        "steps/action/future/xyz_residual",
        "steps/action/future/axis_angle_residual",
        "steps/action/future/target_close",
        "steps/observation/present/xyz",
        "steps/observation/present/axis_angle",
        "steps/observation/present/sensed_close",
    ),
    action=_action,
    state=_state,
    state_names=(
        *("x (m)", "y (m)", "z (m)"),
        *("rotation x (rad)", "rotation y (rad)", "rotation z (rad)"),
        "gripper, 1 closed (0.2..1)",
    ),
    spec=end_effector_spec(
        frame="displacement of the end effector in the robot's frame; the rotation is added to the"
        " present axis-angle vector",
        control_hz=10.0,
        gripper=f"{GRIPPER}; the dataset has 1 closed",
    ),
    source="TFDS catalog, bc_z 0.1.0 (1.0.0 is damaged); Octo, bc_z_dataset_transform",
)
