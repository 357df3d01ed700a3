"""DLR EDAN: a wheelchair with an arm, guided by its user, picks and pours; 100 episodes."""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import (
    GRIPPER,
    POSE_NAMES,
    end_effector_spec,
    join,
    open_fraction,
)

# The dataset has the angles in the order of as_euler("zxy"): about z, about x, about y. Octo keeps
# that order under the names roll, pitch, yaw; here each angle stands under its own name.
_POSE = (0, 1, 2, 4, 5, 3)


def _action(columns: Columns) -> np.ndarray:
    action = columns["steps/action"]
    return join(action[:, _POSE], open_fraction(action[:, 6]))


def _state(columns: Columns) -> np.ndarray:
    state = columns["steps/observation/state"]
    return join(state[:, _POSE], state[:, 6])


ROBOT = Robot(
    name="dlr_edan_shared_control_converted_externally_to_rlds",
    images={"primary": "steps/observation/image"},
    instruction=("steps/language_instruction",),
    arrays=("steps/action", "steps/observation/state"),
    action=_action,
    state=_state,
    state_names=(*POSE_NAMES, "gripper, 1 closed (0..1)"),
    spec=end_effector_spec(
        frame="displacement of the end effector in the robot's base frame; angles about the fixed"
        " axes, turned in the order z, x, y",
        control_hz=5.0,
        gripper=f"{GRIPPER}; the dataset has 1 closed, 0 open",
    ),
    source="TFDS catalog, dlr_edan_shared_control_converted_externally_to_rlds 0.1.0;"
    " Octo, dlr_edan_shared_control_dataset_transform",
)
