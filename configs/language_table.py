"""PaliGemma-3B on simulated Language-Table: RT-2's open benchmark, with what can be had openly.

As RT-2's PaLI-3B (appendices B, D and E): the image before and the present one, and an action of
two integers, here 0..20 for its -10..10; batch and rate of a full fine-tuning of PaliGemma. The
dataset is looked for in `data/language_table_sim/VERSION`: the published one, or what
`vla-jax demonstrate --env=language_table --episodes=N --out=data` writes. The checkpoint is that of
`paligemma_bridge.py`; afterwards `vla-jax eval WORKDIR --env=language_table`. Variants:
`language_table.py` and `language_table.py:scratch`, a small model from scratch on one machine.
"""

from ml_collections import config_dict

from vla_jax.core.config import to_config_dict
from vla_jax.core.errors import UserError
from vla_jax.experiment import config as experiment
from vla_jax.models import variants

VARIANTS = ("paligemma", "scratch")


def get_config(variant: str = "paligemma") -> config_dict.ConfigDict:
    """Returns the defaults with this experiment's differences."""
    if variant not in VARIANTS:
        raise UserError(
            "variant of configs/language_table.py", expected=", ".join(VARIANTS), found=variant
        )
    c = experiment.defaults()
    c.mixture.name = "language_table_sim"
    c.mixture.robot_share = 1.0
    c.mixture.web = {}
    c.bins.count = 21
    c.sequence.suffix = 3
    c.loader.history = 2
    c.loader.batch_size = 128
    # Sides of 0.95, in the middle when it acts, as the benchmark's own baseline.
    c.loader.augment.update(crop=0.9, centre=0.9)
    c.checkpoint.every = 2000
    c.loop.update(steps=60_000, log_every=50, eval_every=5000)
    c.optimizer.schedule.update(kind="cosine", warmup_steps=500)
    if variant == "paligemma":
        c.model = to_config_dict(variants.PALIGEMMA_3B)
        c.pretrained.path = "checkpoints/paligemma-3b-pt-224"
        c.tokenizer.path = "checkpoints/paligemma-3b-pt-224/tokenizer.json"
        c.prompts.robot = "rt2"
        c.loader.threads = 16
        c.mesh.update(data=1, fsdp=-1)
        c.optimizer.learning_rate = 2e-5
    else:
        c.model = to_config_dict(variants.TABLETOP_TINY)
        c.model.vision.image_size = 96
        c.model.decoder.update(depth=6, width=256, heads=8, key_heads=8, mlp=512)
        c.model.vision.width = 256
        c.prompts.robot = "plain"
        c.sequence.prefix = 32
        c.action_tokens.initialization = "smooth"
        c.loader.threads = 4
        c.optimizer.learning_rate = 3e-4
    return c
