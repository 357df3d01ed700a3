"""Cable routing: a Franka arm holds a cable and leads it through clips; 1,482 episodes."""

import numpy as np

from vla_jax.data.robots.robot import Columns, Robot
from vla_jax.data.robots.standardize import end_effector_spec, join, zeros


def _action(columns: Columns) -> np.ndarray:
    return join(
        columns["steps/action/world_vector"],
        columns["steps/action/rotation_delta"],
        zeros(columns, 1),
    )


ROBOT = Robot(
    name="berkeley_cable_routing",
    images={
        "primary": "steps/observation/image",
        "secondary": "steps/observation/top_image",
        "wrist": "steps/observation/wrist45_image",
    },
    instruction=("steps/observation/natural_language_instruction",),
    arrays=(
        "steps/action/world_vector",
        "steps/action/rotation_delta",
        "steps/observation/robot_state",
    ),
    action=_action,
    state=lambda columns: join(columns["steps/observation/robot_state"]),
    state_names=tuple(f"robot_state {k} (not documented)" for k in range(1, 8)),
    spec=end_effector_spec(
        frame="velocity of the end effector in the robot's base frame; turns about z only",
        control_hz=10.0,
        units=("velocity command", "angular velocity command"),
        gripper="always 0, closed: it holds the cable",
    ),
    source="TFDS catalog, berkeley_cable_routing 0.1.0; arXiv 2307.08927; Octo,"
    " berkeley_cable_routing_dataset_transform",
)
