"""BridgeData V2 as its authors convert it: a WidowX arm in toy kitchens; 60,064 episodes.

The same data goes by two names, `bridge_orig` (OpenVLA) and `bridge_dataset` (its directory).
"""

import dataclasses

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import (
    GRIPPER,
    POSE_NAMES,
    binarize,
    end_effector_spec,
    join,
    reached_delta,
)


def _action(columns: Columns) -> np.ndarray:
    # The arm lags behind its commands, so the motion is relabelled with the pose it reached.
    motion = reached_delta(columns["steps/observation/state"][:, :6], columns)
    return join(motion, binarize(columns["steps/action"][:, 6], columns))


ROBOT = Robot(
    name="bridge_orig",
    # Where an episode has no second camera, image_1 is black.
    images={"primary": "steps/observation/image_0", "secondary": "steps/observation/image_1"},
    instruction=("steps/language_instruction",),
    arrays=("steps/action", "steps/observation/state"),
    action=_action,
    state=lambda columns: join(columns["steps/observation/state"]),
    state_names=(*POSE_NAMES, "gripper, 1 open (0..1)"),
    # The first action of an episode is all zeros, and the last step has no next pose.
    keep=lambda columns: ~columns.first & ~columns.last,
    spec=end_effector_spec(
        frame="displacement of the end effector in the robot's base frame; roll, pitch, yaw",
        control_hz=5.0,
        max_step=0.2,
        gripper=f"{GRIPPER}; values in between take the state reached next",
    ),
    source="https://rail-berkeley.github.io/bridgedata; OpenVLA, bridge_orig_dataset_transform",
)

BRIDGE_DATASET = dataclasses.replace(ROBOT, name="bridge_dataset")
