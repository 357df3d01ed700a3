"""How policies are evaluated in Meta-World."""

from collections.abc import Mapping
from typing import Any

import gymnasium

from vla_jax.data.robots.metaworld import ROBOT
from vla_jax.envs.environment import Environment
from vla_jax.envs.metaworld import tasks
from vla_jax.envs.metaworld.env import MetaworldConfig, MetaworldEnv

_GOALS = {"mt10": "train", "mt50": "train", "new_goals": "test"}


def _make(*, image_size: int | None = None, film: bool = False) -> gymnasium.Env:
    config = MetaworldConfig() if image_size is None else MetaworldConfig(image_size=image_size)
    return MetaworldEnv(config, render_mode="rgb_array" if film else None)


def _options(split: str, task: str, trial: int) -> Mapping[str, Any]:
    return {"task": task, "goals": _GOALS[split], "goal": trial % tasks.GOALS}


ENVIRONMENT = Environment(
    name="metaworld",
    robots=(ROBOT.name,),
    views={"primary": "image"},
    tasks={"mt10": tasks.MT10, "mt50": tasks.MT50, "new_goals": tasks.MT50},
    trials=tasks.GOALS,
    max_steps=500,
    protocol="mt10 and mt50: one episode for each of the 50 goals that a task is also trained on,"
    " 10 or 50 tasks; new_goals: 50 others, those of ML1's test. Success: its flag is up at any of"
    " 500 steps; the mean over tasks and goals is the number. Every task's goals are those of MT1"
    " with seed 42. Source: Farama-Foundation/Metaworld, docs/evaluation/evaluation.md.",
    apart=True,
    packages=("metaworld", "mujoco", "gymnasium", "numpy"),
    options=_options,
    make=_make,
)
