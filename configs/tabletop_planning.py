"""The embedded tabletop where instructions have two stages, with and without saying a plan first.

Variants: `planned`, which writes `Plan: move red cube left Action: ...` at every step (RT-2,
section 4.4); `direct`, on the same demonstrations, which acts at once; `smoke`, which plans
(seconds, learns nothing, for tests).
"""

import pathlib
import runpy

from ml_collections import config_dict

from vla_jax.core.errors import UserError

VARIANTS = ("planned", "direct", "smoke")


def get_config(variant: str = "planned") -> config_dict.ConfigDict:
    """Returns configs/tabletop.py with tasks of two stages, and demonstrations that say them."""
    if variant not in VARIANTS:
        raise UserError(
            "variant of configs/tabletop_planning.py", expected=", ".join(VARIANTS), found=variant
        )
    tabletop = runpy.run_path(str(pathlib.Path(__file__).with_name("tabletop.py")))["get_config"]
    c = tabletop("smoke" if variant == "smoke" else "cofinetuned")
    c.tabletop.demonstrations.tasks = ("pick", "side", "two_stage")
    c.tabletop.demonstrations.plans = True
    c.prompts.plan = "none" if variant == "direct" else "expert"
    c.sequence.prefix = 32 if variant == "smoke" else 16
    c.sequence.plan = 24 if variant == "smoke" else 6
    # Eight tokens of an action and the end; before them the plan, `Plan:` and `Action:`.
    c.sequence.suffix = 9 if variant == "direct" else 56 if variant == "smoke" else 17
    return c
