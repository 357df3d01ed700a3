"""The embedded tabletop: RT-2's eight action dimensions in metres, radians and 0..1."""

import math

from vla_jax.actions.spec import ActionSpec
from vla_jax.data.robots.robot import Robot

MAX_STEP = 0.05  # metres per step and axis
MAX_TURN = math.pi / 12  # radians per step and axis

TABLETOP = Robot(
    name="tabletop",
    images={"primary": "steps/observation/image"},
    instruction=("steps/language_instruction",),
    plan="steps/plan",
    arrays=("steps/action",),
    action=lambda columns: columns["steps/action"],
    spec=ActionSpec(
        names=("terminate", "dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"),
        units=("0..1", *("metres per step",) * 3, *("radians per step",) * 3, "0..1"),
        low=(0.0, *(-MAX_STEP,) * 3, *(-MAX_TURN,) * 3, 0.0),
        high=(1.0, *(MAX_STEP,) * 3, *(MAX_TURN,) * 3, 1.0),
        discrete=(True, *(False,) * 7),
        frame="table: origin at the image's top left corner, x right, y towards the camera, z up",
        gripper="0 open, 1 closed, absolute; above 0.5 closes",
        control_hz=3.0,
    ),
    source="vla_jax/envs/tabletop",
)
