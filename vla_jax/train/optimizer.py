"""AdamW with a schedule and gradient clipping, all from optax."""

import dataclasses
from typing import Any, Literal

import jax
import optax

from vla_jax.core import trees
from vla_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The update rule.

    Attributes:
      learning_rate: peak learning rate.
      warmup_steps: linear warm-up from 0.
      schedule: what follows the warm-up: constant, or cosine or linear decay to `final_fraction`.
      final_fraction: last learning rate over the peak, at the last step.
      b1: decay of the first moment.
      b2: decay of the second moment.
      weight_decay: decoupled decay of matrices; norms and biases are left alone.
      clip_norm: largest global gradient norm.
      embedding_rate: factor on the learning rate of the token embeddings. Gemma multiplies them
        by sqrt(width), so trained from scratch they move that much faster than other weights.

    Raises:
      UserError: a value is out of range.
    """

    learning_rate: float = 2e-5
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    final_fraction: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    embedding_rate: float = 1.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise UserError(
                    f"config.optimizer.{name}", expected="> 0", found=getattr(self, name)
                )
        if self.warmup_steps < 0:
            raise UserError(
                "config.optimizer.warmup_steps", expected=">= 0", found=self.warmup_steps
            )


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns step -> learning rate over `steps` updates."""
    peak, warmup = config.learning_rate, min(config.warmup_steps, steps)
    rest = max(steps - 1 - warmup, 1)  # the last update is that of step `steps - 1`
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, alpha=config.final_fraction)
    elif config.schedule == "linear":
        after = optax.linear_schedule(peak, peak * config.final_fraction, rest)
    else:
        after = optax.constant_schedule(peak)
    # One step in, so that the first update is not lost on a rate of 0.
    rise = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


def make_optimizer(
    config: OptimizerConfig, steps: int, params: Any
) -> optax.GradientTransformation:
    """Returns clip -> AdamW -> schedule for a pytree shaped like `params`."""
    decay = jax.tree.map(lambda skip: not skip, trees.mask(params, r".*(norm\w*|bias)"))
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            make_schedule(config, steps),
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=decay,
        ),
        optax.masked(optax.scale(config.embedding_rate), trees.mask(params, r".*embedding")),
    )
