"""UT Austin MUTEX: a Franka arm does diverse household tasks; 1,500 episodes.

The copy that Open X-Embodiment publishes stores the pictures of both cameras with red and blue
exchanged; copies prepared by rlds_dataset_mod have them in order.
"""

from vla_jax.data.robots.robot import Robot
from vla_jax.data.robots.standardize import (
    GRIPPER,
    closing_last,
    end_effector_spec,
    join,
    joint_names,
)

ROBOT = Robot(
    name="utaustin_mutex",
    images={
        "primary": "steps/observation/image",
        "wrist": "steps/observation/wrist_image",
    },
    instruction=("steps/language_instruction",),
    arrays=("steps/action", "steps/observation/state"),
    action=lambda columns: closing_last(columns["steps/action"]),
    # The rest of the state is the end effector's pose as a 4x4 matrix.
    state=lambda columns: join(columns["steps/observation/state"][:, :8]),
    state_names=(*joint_names(7), "gripper width (m)"),
    spec=end_effector_spec(
        frame="command of the operational space controller in the robot's base frame",
        control_hz=20.0,
        max_step=1.0,
        max_turn=1.0,
        units=("share of the largest step", "share of the largest turn"),
        gripper=f"{GRIPPER}; the dataset has 1 closed, -1 open",
    ),
    source="TFDS catalog, utaustin_mutex 0.1.0; https://ut-austin-rpl.github.io/MUTEX;"
    " Octo, utaustin_mutex_dataset_transform",
)
