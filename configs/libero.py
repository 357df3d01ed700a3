"""OpenVLA-7B adapted to one suite of LIBERO with LoRA, as its authors did.

Rank 32 on all matrices, batch 128, rate 5e-4, 50,000 to 60,000 steps by suite, random crops of nine
tenths in training and those in the middle when it acts (openvla/openvla, README,
vla-scripts/finetune.py and experiments/robot/libero; OpenVLA, appendix E). The checkpoint is looked
for in `checkpoints/openvla-7b`, the dataset in `data/libero_spatial_no_noops/VERSION`: the
published one, or LIBERO's files through `vla-jax ingest --format=libero_hdf5
--name=libero_spatial_no_noops`. Afterwards `vla-jax eval WORKDIR --env=libero
--splits=libero_spatial`. Variants: the suites, and `all` for one policy of all four.
"""

from ml_collections import config_dict

from vla_jax.core.config import to_config_dict
from vla_jax.core.errors import UserError
from vla_jax.experiment import config as experiment
from vla_jax.models import variants

_STEPS = {"spatial": 50_000, "object": 50_000, "goal": 60_000, "10": 80_000, "all": 100_000}
VARIANTS = tuple(_STEPS)


def get_config(variant: str = "spatial") -> config_dict.ConfigDict:
    """Returns the defaults with this experiment's differences."""
    if variant not in VARIANTS:
        raise UserError("variant of configs/libero.py", expected=", ".join(VARIANTS), found=variant)
    c = experiment.defaults()
    c.model = to_config_dict(variants.OPENVLA_7B)
    c.pretrained.path = "checkpoints/openvla-7b"
    c.tokenizer.path = "checkpoints/openvla-7b/tokenizer.json"
    c.action_tokens.rows = "openvla"
    c.bins.convention = "openvla"
    c.prompts.robot = "openvla"
    c.mixture.name = f"libero_{variant}"
    c.mixture.robot_share = 1.0
    c.mixture.web = {}
    c.strategy.kind = "lora"
    c.strategy.lora.rank = 32
    c.loader.batch_size = 128
    c.loader.threads = 16
    c.loader.resize = "lanczos"
    c.loader.augment.update(
        crop=0.9, centre=0.9, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05
    )
    c.mesh.update(data=1, fsdp=-1)
    c.optimizer.learning_rate = 5e-4
    c.checkpoint.every = 2500
    c.loop.update(steps=_STEPS[variant], log_every=50, eval_every=10_000)
    return c
