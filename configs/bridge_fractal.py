"""Two robots and web questions in one batch: BridgeData V2, RT-1's kitchens, VQAv2.

The datasets are looked for below `data_dir` (`bridge_orig/1.0.0`, ...), or named one by one with
`--config.mixture.robots.bridge_orig.dir=DIR`. Variants: `bridge_fractal.py` (from scratch, at
the model's default sizes) and `bridge_fractal.py:tiny` (for tests).
"""

from ml_collections import config_dict

from vla_jax.core.config import to_config_dict
from vla_jax.core.errors import UserError
from vla_jax.data.mixture import RobotConfig
from vla_jax.data.web.table import WebConfig
from vla_jax.experiment import config as experiment

VARIANTS = ("small", "tiny")


def get_config(variant: str = "small") -> config_dict.ConfigDict:
    """Returns the defaults with this experiment's differences."""
    if variant not in VARIANTS:
        raise UserError(
            "variant of configs/bridge_fractal.py", expected=", ".join(VARIANTS), found=variant
        )
    c = experiment.defaults()
    c.mixture.name = None
    c.mixture.robots = {
        "bridge_orig": to_config_dict(RobotConfig()),
        "fractal20220817_data": to_config_dict(RobotConfig(weight=0.54)),
    }
    c.mixture.web = {"vqav2": to_config_dict(WebConfig(layout="vqav2"))}
    c.loader.views = ("primary", "secondary")
    c.loader.augment.crop = 0.9
    c.loader.augment.brightness = 0.1
    c.loader.augment.contrast = 0.1
    c.loader.augment.saturation = 0.1
    c.loader.augment.hue = 0.05
    c.action_tokens.initialization = "smooth"
    if variant == "tiny":
        c.model.vision.update(image_size=16, patch_size=8, depth=1, width=16, heads=2, mlp=16)
        c.model.decoder.update(width=16, depth=1, mlp=16, heads=2, key_heads=1, head_dim=8)
        c.loader.batch_size = 8
        c.loader.threads = 2
        c.loader.held_out = 0.25
        c.sequence.prefix = 64
        c.optimizer.schedule.warmup_steps = 2
        c.checkpoint.every = 4
        c.loop.update(steps=8, log_every=4, eval_every=4)
        c.evaluation.update(questions=8, frames=8)
    return c
