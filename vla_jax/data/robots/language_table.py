"""Language-Table: an xArm pushes blocks on a table with a rod, 442,226 episodes; no gripper.

The simulated set (181,020 episodes) has the same features, and as in RT-2 its actions have the two
dimensions that the robot has: nothing is mixed with it that has seven.
"""

import dataclasses

import numpy as np

from vla_jax.actions.spec import ActionSpec
from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import end_effector_spec, join, zeros


def _action(columns: Columns) -> np.ndarray:
    return join(columns["steps/action"], zeros(columns, 4), 1 - zeros(columns, 1))


_FRAME = "displacement of the rod's tip in the plane of the table; it never lifts or turns"
_MAX_STEP = 0.1  # metres per step and axis

ROBOT = Robot(
    name="language_table",
    images={"primary": "steps/observation/rgb"},
    # 512 integers: the instruction's bytes in UTF-8, then zeros.
    instruction=("steps/observation/instruction",),
    arrays=("steps/action", "steps/observation/effector_translation"),
    action=_action,
    state=lambda columns: join(columns["steps/observation/effector_translation"]),
    state_names=("x (m)", "y (m)"),
    spec=end_effector_spec(
        frame=_FRAME,
        control_hz=10.0,
        max_step=_MAX_STEP,
        gripper="always 1: there is none",
    ),
    source="https://github.com/google-research/language-table; TFDS, language_table 0.0.1; Octo,"
    " language_table_dataset_transform",
)

SIMULATED = dataclasses.replace(
    ROBOT,
    name="language_table_sim",
    action=lambda columns: columns["steps/action"],
    spec=ActionSpec(
        names=("dx", "dy"),
        units=("metres per step",) * 2,
        low=(-_MAX_STEP,) * 2,
        high=(_MAX_STEP,) * 2,
        discrete=(False,) * 2,
        frame=_FRAME,
        gripper="none",
        control_hz=10.0,
    ),
    source="https://github.com/google-research/language-table, language_table_sim 0.0.1; RT-2,"
    " appendix D",
)
