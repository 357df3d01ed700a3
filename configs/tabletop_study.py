"""The embedded tabletop as the studies train it: pre-trained on questions, then on robots as well.

Variants: `tiny`, the model of configs/tabletop.py; `micro`, of less than half of its parameters;
`smoke` (seconds, learns nothing, for tests). `mixture.robot_share` decides what a run trains on:
0.0 is the pre-training on the web's questions that the other runs start from.
"""

import pathlib
import runpy

from ml_collections import config_dict

from vla_jax.core.config import to_config_dict
from vla_jax.core.errors import UserError
from vla_jax.envs.tabletop import world
from vla_jax.models import variants

VARIANTS = ("tiny", "micro", "smoke")


def get_config(variant: str = "tiny") -> config_dict.ConfigDict:
    """Returns configs/tabletop.py with more kinds of questions, more splits and shorter runs."""
    if variant not in VARIANTS:
        raise UserError(
            "variant of configs/tabletop_study.py", expected=", ".join(VARIANTS), found=variant
        )
    tabletop = runpy.run_path(str(pathlib.Path(__file__).with_name("tabletop.py")))["get_config"]
    c = tabletop("smoke" if variant == "smoke" else "cofinetuned")
    # Beside what the default asks: the words of the splits relation and symbol.
    c.tabletop.questions.kinds = {
        "locate": 4.0,
        "extreme": 1.5,
        "colour": 1.5,
        "shape": 1.5,
        "relation": 1.0,
        "symbol": 0.5,
    }
    c.evaluation.splits = world.SPLITS
    c.evaluation.film = 0
    c.loop.eval_every = 1_000_000  # measured at the end, which takes a minute
    c.mesh.cpu_devices = 1  # two runs side by side make more of two cores than one run of both
    if variant == "smoke":  # so few questions that a rare kind might not be among them
        c.tabletop.questions.kinds = dict.fromkeys(c.tabletop.questions.kinds, 1.0)
        c.evaluation.questions = 50
        return c
    c.tabletop.questions.validation = 1200
    c.evaluation.questions = 1200
    c.evaluation.episodes = 210
    c.loop.steps = 12_000
    if variant == "micro":
        c.model = to_config_dict(variants.TABLETOP_MICRO)
    return c
