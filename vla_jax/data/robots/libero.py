"""LIBERO: a simulated Franka arm, four suites of ten tasks, without their idle steps.

The four directories share one schema: the suites as replayed for OpenVLA, 256 pixels, upright.
"""

from vla_jax.data.robots.robot import Robot
from vla_jax.data.robots.standardize import GRIPPER, closing_last, end_effector_spec, join

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")


def robot_of(name: str) -> Robot:
    """Returns the adapter of one suite."""
    return Robot(
        name=f"{name}_no_noops",
        images={
            "primary": "steps/observation/image",
            "wrist": "steps/observation/wrist_image",
        },
        instruction=("steps/language_instruction",),
        arrays=("steps/action", "steps/observation/state"),
        action=lambda columns: closing_last(columns["steps/action"]),
        state=lambda columns: join(columns["steps/observation/state"]),
        state_names=(
            *("x (m)", "y (m)", "z (m)"),
            *("rotation x (rad)", "rotation y (rad)", "rotation z (rad)"),
            *("left finger (m)", "right finger (m)"),
        ),
        spec=end_effector_spec(
            frame="command of robosuite's operational space controller, robot's base frame; the"
            " rotation is an axis-angle vector",
            control_hz=20.0,
            max_step=1.0,
            max_turn=1.0,
            units=("share of 0.05 metres per step", "share of 0.5 radians per step"),
            gripper=f"{GRIPPER}; the simulator takes -1 open, 1 closed",
        ),
        source="https://libero-project.github.io; OpenVLA, libero_dataset_transform",
    )


ROBOTS = tuple(robot_of(name) for name in SUITES)
