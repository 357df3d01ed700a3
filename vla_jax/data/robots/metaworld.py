"""Meta-World: a simulated Sawyer arm whose hand keeps its orientation; four dimensions.

The dataset is what `vla-jax demonstrate --env=metaworld` writes, in these units.
"""

from vla_jax.actions.spec import ActionSpec
from vla_jax.data.robots.robot import Robot
from vla_jax.data.robots.standardize import join

MAX_STEP = 0.01  # metres per step and axis: the simulator's action_scale

ROBOT = Robot(
    name="metaworld",
    images={"primary": "steps/observation/image"},
    instruction=("steps/language_instruction",),
    arrays=("steps/action", "steps/observation/state"),
    action=lambda columns: columns["steps/action"],
    state=lambda columns: join(columns["steps/observation/state"]),
    state_names=("x (m)", "y (m)", "z (m)", "opening (0..1)"),
    spec=ActionSpec(
        names=("dx", "dy", "dz", "gripper"),
        units=(*("metres per step",) * 3, "0..1"),
        low=(*(-MAX_STEP,) * 3, 0.0),
        high=(*(MAX_STEP,) * 3, 1.0),
        discrete=(False,) * 4,
        frame="world: x right, y away from the robot's base, z up",
        gripper="effort: 1 opens, 0 closes, 0.5 neither; the simulator takes -1 opens, 1 closes",
        control_hz=80.0,
    ),
    source="https://metaworld.farama.org; Farama-Foundation/Metaworld,"
    " metaworld/sawyer_xyz_env.py (set_xyz_action)",
)
