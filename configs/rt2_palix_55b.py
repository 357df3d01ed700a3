"""RT-2-PaLI-X: co-fine-tuning of 55B or 5B parameters on RT-1's kitchens and VQAv2.

PaLI-X is not public, so checkpoint and tokenizer are yours: `checkpoints/palix/...`. Batch, rate
and steps are those of RT-2, appendix E. Variants: `rt2_palix_55b.py`, on v4-512 (`v4:8x8x8`), and
`rt2_palix_55b.py:5b`.
"""

from ml_collections import config_dict

from vla_jax.core.config import to_config_dict
from vla_jax.core.errors import UserError
from vla_jax.data.web.table import WebConfig
from vla_jax.experiment import config as experiment
from vla_jax.models import variants

VARIANTS = ("55b", "5b")


def get_config(variant: str = "55b") -> config_dict.ConfigDict:
    """Returns the defaults with this experiment's differences."""
    if variant not in VARIANTS:
        raise UserError(
            "variant of configs/rt2_palix_55b.py", expected=", ".join(VARIANTS), found=variant
        )
    c = experiment.defaults()
    c.model = to_config_dict(variants.variants()[f"rt2_palix_{variant}"])
    c.model.remat = "auto"
    c.pretrained.path = f"checkpoints/palix-{variant}"
    c.tokenizer.path = f"checkpoints/palix-{variant}/tokenizer.json"
    c.action_tokens.scheme = "integers"
    c.mixture.name = "fractal"
    c.mixture.web = {"vqav2": to_config_dict(WebConfig(layout="vqav2"))}
    c.mixture.robot_share = 0.5
    c.loader.batch_size = 2048
    c.loader.threads = 16
    c.optimizer.rule = "adafactor"
    c.optimizer.learning_rate = 1e-3
    c.mesh.update(data=1, fsdp=-1)
    c.checkpoint.every = 2000
    c.loop.update(steps=80_000, log_every=50, eval_every=10_000)
    if variant == "55b":
        # The estimate that `auto` goes by is a third too high here; the compiler finds room.
        c.model.remat = "dots"
        # A layer of 6144 x 25600 on four chips: a fourth of the traffic of parameters, and still
        # enough examples per chip.
        c.mesh.update(tensor=4, cpu_devices=4)
    else:
        c.loop.steps = 270_000
    return c
