"""Austin SIRIUS: a Franka arm at work, corrected by people where it fails; 559 episodes."""

from vla_jax.data.robots.robot import Robot
from vla_jax.data.robots.standardize import (
    GRIPPER,
    closing_last,
    end_effector_spec,
    join,
    joint_names,
)

ROBOT = Robot(
    name="austin_sirius_dataset_converted_externally_to_rlds",
    images={
        "primary": "steps/observation/image",
        "wrist": "steps/observation/wrist_image",
    },
    instruction=("steps/language_instruction",),
    arrays=("steps/action", "steps/observation/state"),
    action=lambda columns: closing_last(columns["steps/action"]),
    # Octo calls this a pose; by the dataset's own description it is joints and gripper.
    state=lambda columns: join(columns["steps/observation/state"]),
    state_names=(*joint_names(7), "gripper width (m)"),
    spec=end_effector_spec(
        frame="command of the operational space controller in the robot's base frame",
        control_hz=20.0,
        max_step=1.0,
        max_turn=1.0,
        units=("share of the largest step", "share of the largest turn"),
        gripper=f"{GRIPPER}; the dataset has 1 closed, -1 open",
    ),
    source="TFDS catalog, austin_sirius_dataset_converted_externally_to_rlds 0.1.0;"
    " https://ut-austin-rpl.github.io/sirius; Octo, austin_sirius_dataset_transform",
)
