"""Language-Table: an xArm pushes blocks on a table with a rod, 442,226 episodes; no gripper."""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import end_effector_spec, join, zeros


def _action(columns: Columns) -> np.ndarray:
    return join(columns["steps/action"], zeros(columns, 4), 1 - zeros(columns, 1))


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
        frame="displacement of the rod's tip in the plane of the table; it never lifts or turns",
        control_hz=10.0,
        max_step=0.1,
        gripper="always 1: there is none",
    ),
    source="https://github.com/google-research/language-table; TFDS, language_table 0.0.1; Octo,"
    " language_table_dataset_transform",
)
