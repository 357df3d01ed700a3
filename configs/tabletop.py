"""The default: the embedded tabletop, robot episodes and web questions in one batch, on a CPU.

Variants: `tabletop.py` (co-fine-tuned), `tabletop.py:robot_only` (as many updates without the
web stream), `tabletop.py:smoke` (under a minute, learns nothing, for tests).
"""

from typing import Any

from ml_collections import config_dict

from vla_jax.core.config import to_config_dict
from vla_jax.core.errors import UserError
from vla_jax.experiment import config as experiment
from vla_jax.models import variants

VARIANTS = ("cofinetuned", "robot_only", "smoke")


def get_config(variant: str = "cofinetuned") -> config_dict.ConfigDict:
    """Returns the defaults with this experiment's differences."""
    if variant not in VARIANTS:
        raise UserError(
            "variant of configs/tabletop.py", expected=", ".join(VARIANTS), found=variant
        )
    c = experiment.defaults()
    c.model = to_config_dict(variants.TABLETOP_TINY)
    c.prompts.robot = "plain"
    c.prompts.web = "plain"
    c.tabletop.image_size = 48
    c.sequence.prefix = 10
    c.sequence.suffix = 9
    c.tabletop.demonstrations.episodes = 6000
    c.tabletop.questions.train = 100_000
    # To say where a thing is teaches a word for acting most.
    c.tabletop.questions.kinds = {"locate": 5.0, "colour": 2.5, "shape": 2.5}
    c.action_tokens.initialization = "smooth"
    c.loader.batch_size = 32
    c.loader.threads = 2
    c.mesh.cpu_devices = 2
    c.optimizer.rule = "muon"  # learns from scratch in half the time that AdamW takes
    c.optimizer.learning_rate = 1e-3
    c.optimizer.schedule.update(kind="cosine", warmup_steps=200, final_fraction=0.02)
    c.optimizer.b2 = 0.98
    # Gemma multiplies embeddings by sqrt(width): they move that much faster.
    c.optimizer.groups = {"embedding": {"parameters": ".*embedding", "rate": 0.2}}
    c.optimizer.weight_decay = 0.01
    c.checkpoint.every = 2000
    c.loop.steps = 14_000
    c.loop.log_every = 100
    c.loop.eval_every = 4000
    if variant == "robot_only":
        c.mixture.robot_share = 1.0
    if variant == "smoke":
        _shorten(c)
    return c


def _shorten(c: Any) -> None:
    """Leaves so little to do that it takes seconds."""
    c.tabletop.demonstrations.episodes = 40
    c.tabletop.questions.train = 100
    c.tabletop.questions.validation = 50
    c.loader.batch_size = 8
    c.loader.held_out = 0.1
    c.sequence.prefix = 32  # few texts: the tokenizer does not know every word as one token
    c.optimizer.schedule.warmup_steps = 2
    c.checkpoint.every = 10
    c.loop.steps = 20
    c.loop.log_every = 5
    c.loop.eval_every = 10
    c.evaluation.episodes = 6
    c.evaluation.quick_episodes = 3
    c.evaluation.questions = 20
    c.evaluation.frames = 20
    c.evaluation.film = 3
    c.evaluation.slots = 6
