"""Meta-World from scratch on the demonstrations of its scripted policies, on a CPU or one GPU.

The data are made first, which takes an hour or two on a CPU (pictures are drawn in software):

    vla-jax demonstrate --env=metaworld --split=mt10 --episodes=500 --noise=0.1 --out=data

and afterwards `vla-jax eval WORKDIR --env=metaworld --splits=mt10`. Variants: `metaworld.py` and
`metaworld.py:short`, a few minutes on a CPU, for a task or two.
"""

from ml_collections import config_dict

from vla_jax.core.config import to_config_dict
from vla_jax.core.errors import UserError
from vla_jax.experiment import config as experiment
from vla_jax.models import variants

VARIANTS = ("mt10", "short")


def get_config(variant: str = "mt10") -> config_dict.ConfigDict:
    """Returns the defaults with this experiment's differences."""
    if variant not in VARIANTS:
        raise UserError(
            "variant of configs/metaworld.py", expected=", ".join(VARIANTS), found=variant
        )
    c = experiment.defaults()
    c.model = to_config_dict(variants.TABLETOP_TINY)
    c.model.vision.image_size = 96
    c.prompts.robot = "plain"
    c.mixture.name = "metaworld"
    c.mixture.robot_share = 1.0
    c.mixture.web = {}
    c.sequence.update(prefix=24, suffix=5)
    c.action_tokens.initialization = "smooth"
    c.loader.update(batch_size=64, threads=4)
    c.loader.augment.update(crop=0.9, brightness=0.1, contrast=0.1)
    c.optimizer.rule = "muon"
    c.optimizer.learning_rate = 1e-3
    c.optimizer.schedule.update(kind="cosine", warmup_steps=200, final_fraction=0.02)
    c.optimizer.b2 = 0.98
    c.optimizer.groups = {"embedding": {"parameters": ".*embedding", "rate": 0.2}}
    c.optimizer.weight_decay = 0.01
    c.checkpoint.every = 2000
    c.loop.update(steps=30_000, log_every=100, eval_every=5000)
    if variant == "short":
        c.loader.update(batch_size=32, threads=2)
        c.loader.augment.update(crop=1.0, brightness=0.0, contrast=0.0)
        c.mesh.cpu_devices = 2
        c.optimizer.schedule.warmup_steps = 50
        c.checkpoint.every = 500
        c.loop.update(steps=1500, log_every=50, eval_every=750)
    return c
