"""AdamW, Adafactor or Muon with a schedule and gradient clipping, all from optax."""

import dataclasses
import functools
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from vla_jax.core import trees
from vla_jax.core.fields import Checked, Factor, NotNegative, Positive, Size
from vla_jax.train.schedule import ScheduleConfig, make_schedule

_ADAMW_RMS = 0.2  # of an update over its rate: Liu et al. 2025, section 2.2
_FACTORED_DECAY = 0.8  # Shazeer and Stern 2018, section 7.2
_UNDECAYED = r"(.*/)?\w*(norm\w*|bias)"

# Logical axes that number matrices, and those whose rows are looked up, not multiplied.
_STACKING = frozenset({"layers", "heads", "kv"})
_LOOKED_UP = frozenset({"vocab", "position"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupConfig(Checked):
    """Parameters with a rate of their own.

    Attributes:
      parameters: regular expression over whole names, such as `vision/.*`.
      rate: factor on the learning rate.
      schedule: one of their own; None for that of all others.
    """

    parameters: str
    rate: NotNegative = 1.0
    schedule: ScheduleConfig | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Checked):
    """The update rule.

    Attributes:
      rule: `adamw`; `adafactor`: second moments factored to rows and columns, updates clipped per
        parameter (Shazeer and Stern 2018; the family of RT-2's PaLI models), which with
        `momentum_dtype=bfloat16` takes 2 bytes per parameter where AdamW takes 8; `muon`: momentum
        made orthogonal for every matrix inside the model, one matrix per layer and head (Jordan
        2024), scaled to the size of AdamW's updates so that the same rates serve (Liu et al. 2025,
        arXiv:2502.16982, section 2.2), AdamW with Nesterov's momentum for embeddings, norms and
        biases. From scratch muon needs far fewer steps.
      learning_rate: peak learning rate.
      schedule: its course.
      groups: parameters with rates of their own, by a name for the metrics; the first that matches
        counts. Gemma multiplies embeddings by sqrt(width), so trained from scratch they move that
        much faster than other weights at the same rate.
      b1: decay of the first moment of AdamW and Adafactor, 0 for none; Muon's decays by 0.95.
      b2: decay of AdamW's second moment.
      momentum_dtype: of the first moment.
      weight_decay: decoupled decay of matrices; norms and biases are left alone.
      clip_norm: largest global gradient norm.
      accumulate: parts of a batch whose gradients are computed one after the other and summed, for
        batches that do not fit; the update is the same.
      ema_decay: of a running average of the parameters, which evaluation, policy and export then
        use; 0 for none.

    Raises:
      UserError: a value is out of range.
    """

    rule: Literal["adamw", "adafactor", "muon"] = "adamw"
    learning_rate: Positive = 2e-5
    schedule: ScheduleConfig = ScheduleConfig()
    groups: dict[str, GroupConfig] = dataclasses.field(default_factory=dict)
    b1: Factor = 0.9
    b2: Factor = 0.95
    momentum_dtype: Literal["float32", "bfloat16"] = "float32"
    weight_decay: NotNegative = 0.0
    clip_norm: Positive = 1.0
    accumulate: Size = 1
    ema_decay: Factor = 0.0


def make_schedules(config: OptimizerConfig, steps: int) -> dict[str, optax.Schedule]:
    """Returns group -> (step -> learning rate) over `steps` updates; `""` is all that is left."""
    schedules = {"": make_schedule(config.schedule, config.learning_rate, steps)}
    for name, group in config.groups.items():
        rate = config.learning_rate * group.rate
        schedules[name] = make_schedule(group.schedule or config.schedule, rate, steps)
    return schedules


def make_optimizer(
    config: OptimizerConfig,
    steps: int,
    params: Any,
    axes: Any,
    *,
    known: Collection[str] = (),
) -> optax.GradientTransformation:
    """Returns clip -> update rule -> decay -> learning rate per group.

    Args:
      config: the update rule.
      steps: length of the run, for the schedule.
      params: a pytree of arrays or `jax.ShapeDtypeStruct`.
      axes: the same structure with a tuple of logical axis names in place of each leaf.
      known: names of parameters that are not trained; a group may match these alone.

    Raises:
      UserError: a group matches no parameter.
    """
    decay = trees.map_with_name(lambda name, _: not re.fullmatch(_UNDECAYED, name), params)
    schedules = make_schedules(config, steps)
    rates = [optax.scale_by_learning_rate(schedules[""])]
    if config.groups:
        groups = _groups(config.groups, params, known)
        rates = [
            optax.masked(
                optax.scale_by_learning_rate(schedule),
                jax.tree.map(functools.partial(str.__eq__, name), groups),
            )
            for name, schedule in schedules.items()
        ]
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        _rule(config, params, axes),
        optax.add_decayed_weights(config.weight_decay, decay),
        *rates,
    )


def _rule(config: OptimizerConfig, params: Any, axes: Any) -> optax.GradientTransformation:
    if config.rule == "adamw":
        return optax.scale_by_adam(config.b1, config.b2, mu_dtype=config.momentum_dtype)
    if config.rule == "adafactor":
        rule = (
            optax.scale_by_factored_rms(decay_rate=_FACTORED_DECAY),
            optax.clip_by_block_rms(1.0),
        )
        if config.b1:
            rule += (optax.ema(config.b1, debias=False, accumulator_dtype=config.momentum_dtype),)
        return optax.chain(*rule)
    matrices = trees.map_with_name(lambda _, leaf, names: _matrices(names), params, axes)
    return muon(
        -1.0,  # the direction alone: decay and rate are applied afterwards
        consistent_rms=_ADAMW_RMS,
        adam_b1=config.b1,
        adam_b2=config.b2,
        mu_dtype=config.momentum_dtype,
        muon_weight_dimension_numbers=matrices,
    )


def _groups(groups: Mapping[str, GroupConfig], params: Any, known: Collection[str]) -> Any:
    """Returns the name of the group of each parameter."""
    everything = dict.fromkeys([*trees.named_leaves(params), *known], 0)
    marks = {
        group: trees.mask(everything, settings.parameters) for group, settings in groups.items()
    }
    return trees.map_with_name(
        lambda name, _: next((group for group, mark in marks.items() if mark[name]), ""), params
    )


def _matrices(axes: tuple[str | None, ...]) -> MuonDimensionNumbers | None:
    """Returns which axes of a parameter are the two of a matrix; None where it holds none."""
    rest = [axis for axis, name in enumerate(axes) if name not in _STACKING]
    if len(rest) != 2 or not _LOOKED_UP.isdisjoint(axes):
        return None
    return MuonDimensionNumbers(reduction_axis=rest[0], output_axis=rest[1])
