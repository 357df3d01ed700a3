"""The learning rate over a run: a linear warm-up, and what follows."""

import dataclasses
from typing import Annotated, Literal

import jax.numpy as jnp
import optax

from vla_jax.core.fields import Checked, Count, Natural, Range, Share


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Checked):
    """The course of a learning rate.

    Attributes:
      kind: what follows the warm-up: `constant`; `cosine` or `linear` decay to `final_fraction`;
        `rsqrt`, 1 / sqrt(1 + n / timescale) after n more steps
        (big_vision:utils.py, create_learning_rate_schedule), which does not need to know the end;
        `wsd`, constant and then a linear decay over the last part of the run (warmup, stable,
        decay: Hu et al. 2024, arXiv:2404.06395).
      warmup_steps: linear warm-up from 0.
      final_fraction: last learning rate over the peak, at the last step.
      decay_fraction: share of the run over which `wsd` decays.
      timescale: of `rsqrt`, steps.

    Raises:
      UserError: a value is out of range.
    """

    kind: Literal["constant", "cosine", "linear", "rsqrt", "wsd"] = "constant"
    warmup_steps: Natural = 0
    final_fraction: Share = 0.0
    decay_fraction: Annotated[float, Range(0, 1, above=True)] = 0.2
    timescale: Count = 10_000


def make_schedule(config: ScheduleConfig, peak: float, steps: int) -> optax.Schedule:
    """Returns step -> learning rate over `steps` updates, with its `peak` after the warm-up."""
    warmup = min(config.warmup_steps, steps)
    rest = max(steps - 1 - warmup, 1)  # the last update is that of step `steps - 1`
    last = peak * config.final_fraction
    if config.kind == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, alpha=config.final_fraction)
    elif config.kind == "linear":
        after = optax.linear_schedule(peak, last, rest)
    elif config.kind == "rsqrt":
        after = _rsqrt(peak, config.timescale)
    elif config.kind == "wsd":
        decay = max(min(round(config.decay_fraction * steps), rest), 1)
        after = optax.linear_schedule(peak, last, decay, transition_begin=rest - decay)
    else:
        after = optax.constant_schedule(peak)
    # One step in, so that the first update is not lost on a rate of 0.
    rise = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


def _rsqrt(peak: float, timescale: int) -> optax.Schedule:
    return lambda count: peak / jnp.sqrt(1 + jnp.asarray(count) / timescale)
