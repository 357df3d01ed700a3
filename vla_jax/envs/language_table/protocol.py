"""How policies are evaluated in the Language-Table simulator."""

from collections.abc import Mapping
from typing import Any

import gymnasium

from vla_jax.data.robots.language_table import SIMULATED
from vla_jax.envs.environment import Environment
from vla_jax.envs.language_table import source
from vla_jax.envs.language_table.env import MAX_STEPS, LanguageTableEnv


def _make(*, image_size: int | None = None, film: bool = False) -> gymnasium.Env:
    del image_size  # the camera has its own
    return LanguageTableEnv(render_mode="rgb_array" if film else None)


def _options(split: str, task: str, trial: int) -> Mapping[str, Any]:
    del split, trial  # the seed draws the scene
    return {"task": task}


ENVIRONMENT = Environment(
    name="language_table",
    robots=(SIMULATED.name,),
    views={"primary": "image"},
    tasks={"all": source.FAMILIES},
    trials=50,
    max_steps=MAX_STEPS,
    protocol="Five families of tasks, 50 episodes each, eight blocks, at most 200 steps at 10 Hz;"
    " scenes for which the oracle has no plan are drawn again. RT-2-PaLI-3B 90 +- 10, LAVA 77 +- 4,"
    " RT-1 74 +- 13, BC-Zero 72 +- 3 (RT-2, table 1). There one simulator with seed 0 draws the"
    " scenes of a family in turn; here each has a seed. Source: google-research/language-table,"
    " language_table/eval/main.py.",
    apart=True,
    packages=("pybullet", "gym", "numpy", "scipy"),
    options=_options,
    make=_make,
)
