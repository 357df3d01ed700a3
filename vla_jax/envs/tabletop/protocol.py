"""How policies are evaluated on the tabletop."""

from collections.abc import Mapping
from typing import Any

import gymnasium

from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.envs.environment import Environment
from vla_jax.envs.tabletop import world
from vla_jax.envs.tabletop.env import TabletopConfig, TabletopEnv


def _make(*, image_size: int | None = None, film: bool = False) -> gymnasium.Env:
    config = TabletopConfig() if image_size is None else TabletopConfig(image_size=image_size)
    return TabletopEnv(config, render_mode="rgb_array" if film else None)


def _options(split: str, task: str, trial: int) -> Mapping[str, Any]:
    del trial  # the seed draws the scene
    return {"split": split, "task": task, "blocks": world.EVALUATION_BLOCKS}


ENVIRONMENT = Environment(
    name="tabletop",
    robots=(TABLETOP.name,),
    views={"primary": "image"},
    tasks={split: world.tasks_of(split, world.TASKS) for split in world.SPLITS},
    default_splits=world.DEFAULT_SPLITS,
    default_tasks=world.DEFAULT_TASKS,
    trials=100,
    least=200,  # `symbol` has one task
    max_steps=TabletopConfig().max_steps * max(world.STAGES.values()),
    protocol="Splits differ in which blocks and words an episode uses; the tasks take turns, 100"
    " episodes of each, and 200 where there is but one. Success: the goal holds when the policy"
    " terminates, within 30 steps per stage of the task. Source: this repository,"
    " experiments/tabletop.",
    packages=("numpy", "opencv-python-headless"),
    options=_options,
    make=_make,
)
