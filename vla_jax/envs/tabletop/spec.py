"""What one action of the tabletop robot means, in real units."""

import math

from vla_jax.actions.spec import ActionSpec

CONTROL_HZ = 3.0
MAX_STEP = 0.05  # metres per step and axis
MAX_TURN = math.pi / 12  # radians per step and axis

ACTION_SPEC = ActionSpec(
    names=("terminate", "dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"),
    units=("0..1", *("metres per step",) * 3, *("radians per step",) * 3, "0..1"),
    low=(0.0, *(-MAX_STEP,) * 3, *(-MAX_TURN,) * 3, 0.0),
    high=(1.0, *(MAX_STEP,) * 3, *(MAX_TURN,) * 3, 1.0),
    discrete=(True, *(False,) * 7),
    frame="table: origin at the image's top left corner, x right, y towards the camera, z up",
    gripper="0 open, 1 closed, absolute; above 0.5 closes",
    control_hz=CONTROL_HZ,
)
