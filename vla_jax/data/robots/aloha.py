"""ALOHA: two ViperX arms follow two hand-held ones; 14 joint targets in absolute positions."""

import numpy as np

from vla_jax.actions.spec import ActionSpec
from vla_jax.data.robots.robot import Robot
from vla_jax.data.robots.standardize import join

_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
_UNITS = (*("radians",) * 6, "0..1")
_NAMES = tuple(f"{arm}_{joint}" for arm in ("left", "right") for joint in _JOINTS)

ROBOT = Robot(
    name="aloha",
    images={
        "primary": "steps/observation/image",
        "secondary": "steps/observation/low_cam_image",
        "wrist_left": "steps/observation/left_wrist_image",
        "wrist_right": "steps/observation/right_wrist_image",
    },
    instruction=("steps/language_instruction",),
    arrays=("steps/action", "steps/observation/state"),
    action=lambda columns: join(columns["steps/action"]),
    state=lambda columns: join(columns["steps/observation/state"]),
    state_names=tuple(f"{name} ({unit})" for name, unit in zip(_NAMES, _UNITS * 2, strict=True)),
    spec=ActionSpec(
        names=_NAMES,
        units=_UNITS * 2,
        # A leader's gripper presses beyond closed: that is how the follower squeezes.
        low=(*(-np.pi,) * 6, -0.5) * 2,
        high=(*(np.pi,) * 6, 1.5) * 2,
        discrete=(False,) * 14,
        frame="absolute joint positions of the left arm, then of the right",
        gripper="1 open, 0 closed, absolute; a little beyond both occurs",
        control_hz=50.0,
    ),
    source="arXiv 2304.13705; RLDS layout of OpenVLA-OFT, arXiv 2502.19645",
)
