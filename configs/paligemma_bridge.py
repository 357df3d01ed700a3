"""PaliGemma-3B fine-tuned on BridgeData V2, on a v5e-16 slice or one node of GPUs.

The checkpoint is looked for in `checkpoints/paligemma-3b-pt-224` (`hf download
google/paligemma-3b-pt-224 --local-dir ...`), the dataset in `data/bridge_orig/VERSION`. Variants:
`paligemma_bridge.py` (robot alone) and `paligemma_bridge.py:cofinetuned` (half of every batch
VQAv2, as RT-2). Whether it fits: `vla-jax plan configs/paligemma_bridge.py --topology v5e:4x4`.
"""

from ml_collections import config_dict

from vla_jax.core.config import to_config_dict
from vla_jax.core.errors import UserError
from vla_jax.data.web.table import WebConfig
from vla_jax.experiment import config as experiment
from vla_jax.models import variants

VARIANTS = ("robot_only", "cofinetuned")


def get_config(variant: str = "robot_only") -> config_dict.ConfigDict:
    """Returns the defaults with this experiment's differences."""
    if variant not in VARIANTS:
        raise UserError(
            "variant of configs/paligemma_bridge.py", expected=", ".join(VARIANTS), found=variant
        )
    c = experiment.defaults()
    c.model = to_config_dict(variants.PALIGEMMA_3B)
    c.model.remat = "auto"
    c.pretrained.path = "checkpoints/paligemma-3b-pt-224"
    c.tokenizer.path = "checkpoints/paligemma-3b-pt-224/tokenizer.json"
    c.prompts.robot = "rt2"
    c.prompts.web = "paligemma"
    c.mixture.name = "bridge"
    c.mixture.robot_share = 1.0
    c.mixture.web = {}
    if variant == "cofinetuned":
        c.mixture.robot_share = 0.5
        c.mixture.web = {"vqav2": to_config_dict(WebConfig(layout="vqav2"))}
    c.loader.batch_size = 128
    c.loader.threads = 16
    c.loader.augment.update(crop=0.9, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.05)
    c.mesh.update(data=1, fsdp=-1)
    c.optimizer.learning_rate = 2e-5
    c.optimizer.schedule.warmup_steps = 500
    c.optimizer.schedule.kind = "cosine"
    c.checkpoint.every = 2000
    c.loop.update(steps=60_000, log_every=50, eval_every=5000)
    return c
