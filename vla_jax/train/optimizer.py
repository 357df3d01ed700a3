"""AdamW or Muon with a schedule and gradient clipping, all from optax."""

import dataclasses
from typing import Any, Literal

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from vla_jax.core import trees
from vla_jax.core.errors import UserError

_ADAMW_RMS = 0.2  # of an update over its rate: Liu et al. 2025, section 2.2

# Logical axes that number matrices, and those whose rows are looked up, not multiplied.
_STACKING = frozenset({"layers", "heads", "kv"})
_LOOKED_UP = frozenset({"vocab", "position"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The update rule.

    Attributes:
      rule: adamw, or muon: momentum made orthogonal for every matrix inside the model, one matrix
        per layer and head (Jordan 2024), scaled to the size of AdamW's updates so that the same
        rates serve (Liu et al. 2025, arXiv:2502.16982, section 2.2); AdamW with Nesterov's
        momentum for embeddings, norms and biases. From scratch it needs far fewer steps.
      learning_rate: peak learning rate.
      warmup_steps: linear warm-up from 0.
      schedule: what follows the warm-up: constant, or cosine or linear decay to `final_fraction`.
      final_fraction: last learning rate over the peak, at the last step.
      b1: decay of AdamW's first moment; Muon's momentum decays by 0.95.
      b2: decay of AdamW's second moment.
      weight_decay: decoupled decay of matrices; norms and biases are left alone.
      clip_norm: largest global gradient norm.
      embedding_rate: factor on the learning rate of the token embeddings. Gemma multiplies them
        by sqrt(width), so trained from scratch they move that much faster than other weights.

    Raises:
      UserError: a value is out of range.
    """

    rule: Literal["adamw", "muon"] = "adamw"
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
    config: OptimizerConfig, steps: int, params: Any, axes: Any
) -> optax.GradientTransformation:
    """Returns clip -> AdamW or Muon -> schedule.

    Args:
      config: the update rule.
      steps: length of the run, for the schedule.
      params: a pytree of arrays or `jax.ShapeDtypeStruct`.
      axes: the same structure with a tuple of logical axis names in place of each leaf.
    """
    if config.rule == "muon":
        matrices = trees.map_with_name(lambda _, leaf, names: _matrices(names), params, axes)
        rule = muon(
            -1.0,  # the direction alone: decay and rate are applied below
            consistent_rms=_ADAMW_RMS,
            adam_b1=config.b1,
            adam_b2=config.b2,
            muon_weight_dimension_numbers=matrices,
        )
    else:
        rule = optax.scale_by_adam(config.b1, config.b2)
    decay = jax.tree.map(lambda skip: not skip, trees.mask(params, r".*(norm\w*|bias)"))
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        rule,
        optax.add_decayed_weights(config.weight_decay, decay),
        optax.scale_by_learning_rate(make_schedule(config, steps)),
        optax.masked(optax.scale(config.embedding_rate), trees.mask(params, r".*embedding")),
    )


def _matrices(axes: tuple[str | None, ...]) -> MuonDimensionNumbers | None:
    """Returns which axes of a parameter are the two of a matrix; None where it holds none."""
    rest = [axis for axis, name in enumerate(axes) if name not in _STACKING]
    if len(rest) != 2 or not _LOOKED_UP.isdisjoint(axes):
        return None
    return MuonDimensionNumbers(reduction_axis=rest[0], output_axis=rest[1])
