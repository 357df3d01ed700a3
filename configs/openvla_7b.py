"""OpenVLA-7B trained further on BridgeData V2, with OpenVLA's own prompt, bins and token ids.

The checkpoint is looked for in `checkpoints/openvla-7b`, the dataset in `data/bridge_orig/VERSION`.
Variants: `openvla_7b.py` and `openvla_7b.py:magic_soup`, the mixture that OpenVLA was trained on,
from the language model and the towers of the same checkpoint.
"""

from ml_collections import config_dict

from vla_jax.core.config import to_config_dict
from vla_jax.core.errors import UserError
from vla_jax.experiment import config as experiment
from vla_jax.models import variants

VARIANTS = ("bridge", "magic_soup")


def get_config(variant: str = "bridge") -> config_dict.ConfigDict:
    """Returns the defaults with this experiment's differences."""
    if variant not in VARIANTS:
        raise UserError(
            "variant of configs/openvla_7b.py", expected=", ".join(VARIANTS), found=variant
        )
    c = experiment.defaults()
    c.model = to_config_dict(variants.OPENVLA_7B)
    c.model.remat = "auto"
    c.pretrained.path = "checkpoints/openvla-7b"
    c.tokenizer.path = "checkpoints/openvla-7b/tokenizer.json"
    c.action_tokens.rows = "openvla"
    c.bins.convention = "openvla"
    c.prompts.robot = "openvla"
    c.mixture.name = "bridge"
    c.mixture.robot_share = 1.0
    c.mixture.web = {}
    if variant == "magic_soup":
        c.mixture.name = "oxe_magic_soup_plus_plus"
    c.loader.batch_size = 512
    c.loader.threads = 16
    c.loader.resize = "lanczos"
    c.loader.augment.update(crop=0.95, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)
    c.mesh.update(data=1, fsdp=-1)
    c.optimizer.learning_rate = 2e-5
    c.checkpoint.every = 2500
    c.loop.update(steps=100_000, log_every=50, eval_every=10_000)
    return c
