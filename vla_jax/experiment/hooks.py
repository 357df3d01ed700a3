"""What a run does beside its updates: lines of metrics, measurements on the way, checkpoints."""

from collections.abc import Mapping
from typing import Any

import jax

from vla_jax.core import trees
from vla_jax.core.errors import UserError, nearest
from vla_jax.data.loader import Loader
from vla_jax.experiment import parts
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.held_out import HeldOut
from vla_jax.experiment.nonfinite import Nonfinite
from vla_jax.experiment.sources import Data
from vla_jax.experiment.workdir import Workdir
from vla_jax.models import flops
from vla_jax.runtime import chips, memory
from vla_jax.runtime.checkpoint import Checkpoints
from vla_jax.runtime.metrics import MetricWriter
from vla_jax.tokens.encoder import Encoder
from vla_jax.train import loss
from vla_jax.train.action_errors import ActionErrors
from vla_jax.train.loop import Clock, Feed, Hook
from vla_jax.train.speed import Speed, Workload
from vla_jax.train.state import TrainState
from vla_jax.train.window import Window


class Hooks:
    """Writes, measures and saves.

    Args:
      config: the run.
      workdir: of the run.
      data: its datasets.
      encoder: its tokens.
      model: its model.
      loader: whose position is saved.
      feed: of the batches of the loader.
      writer: of lines of metrics.
      checkpoints: where to save.
      clock: seconds of training.
      position: what `save` saved beside the arrays of the run that goes on; empty for a new one.

    Attributes:
      measure: the loss function.
      window: takes the metrics of every step.
      nonfinite: is told of steps that are not finite.

    Raises:
      UserError: the best checkpoint is to be kept by a metric that is not measured.
    """

    def __init__(
        self,
        config: RunConfig,
        workdir: Workdir,
        data: Data,
        encoder: Encoder,
        model: parts.Model,
        loader: Loader,
        feed: Feed,
        writer: MetricWriter,
        checkpoints: Checkpoints,
        clock: Clock,
        position: Mapping[str, Any],
    ):
        self._config, self._model, self._names = config, model, data.names
        self._loader, self._writer, self._checkpoints = loader, writer, checkpoints
        self._clock = clock
        start = position.get("next_batch", 0)
        self._errors = ActionErrors(
            data.names, encoder.actions, encoder.vocabulary, config.loader.chunk
        )
        self.measure = model.measure(len(data.names), self._errors)
        self._held_out = HeldOut(config, data, encoder, model, self.measure, self._errors)
        self._speed = Speed(_workload(config, encoder, model), clock, feed, start)
        self.window = Window(position.get("window"))
        self.nonfinite = Nonfinite(
            config.loop, loader, model.mesh, workdir.nonfinite, position.get("nonfinite", 0)
        )
        self._measured: int = position.get("measured", 0)
        self._best: dict[int, float] = {}
        wanted = config.checkpoint.best
        if wanted is not None and not self._held_out.gives(wanted):
            raise UserError(
                f"config.checkpoint.best={wanted}: nothing of that name is measured on the way",
                expected=f"one of {', '.join(self._held_out.names)}",
                fix=nearest(wanted, self._held_out.names),
            )

    def due(self) -> tuple[Hook, ...]:
        """Returns when to do what; measured first, so that a checkpoint knows how good it is."""
        return (
            Hook(every=self._config.loop.eval_every, call=self.look, at_end=False),
            Hook(every=self._config.checkpoint.every, call=self.save),
        )

    def log(self, n: int) -> Mapping[str, float]:
        """Writes a line about the window."""
        values = dict(self.window.last)
        if self.window.steps:
            sums = self.window.sums
            values |= loss.source_metrics([sums], self._names) | self._errors.metrics(sums)
            values |= loss.source_shares([sums], self._names)
        if self.nonfinite.count:
            values["skipped_steps"] = self.nonfinite.count
        values |= self._model.rates(n) | {"steps_averaged": self.window.steps}
        values |= self._speed.since(n, self.window.sums) | memory.taken()
        self._writer.write(n, values | {"seconds": self._clock.seconds()})
        shown = {name: values[name] for name in ("loss",) if name in values}
        if "speed/mfu" in values:
            shown["mfu"] = values["speed/mfu"]
        return shown

    def look(self, n: int, state: TrainState) -> Mapping[str, float]:
        """Measures the parameters; saves them as well where the best ones are to stay."""
        values = self._held_out(self._model.joined(state))
        self._writer.write(n, values)
        self._measured = n
        if (best := self._config.checkpoint.best) is not None:
            self._best[n] = values.get(best, float("nan"))
            self.save(n, state)
        return {"success": values["success/seen"]} if "success/seen" in values else {}

    def save(self, n: int, state: TrainState) -> Mapping[str, float]:
        """Saves everything that the run needs to go on as if it had not stopped."""
        position = {
            "seconds": self._clock.seconds(),
            "window": self.window.state(),
            "nonfinite": self.nonfinite.count,
            "measured": self._measured,
        }
        position |= self._loader.state(n)
        self._checkpoints.save(n, state.saved(), position, best=self._best.pop(n, None))
        return {}

    def catch_up(self, start: int, state: TrainState) -> None:
        """Measures what a run that was told to stop has saved, but left to be measured."""
        loop = self._config.loop
        if 0 < start < loop.steps and start % loop.eval_every == 0 and self._measured < start:
            self.look(start, state)


def _workload(config: RunConfig, encoder: Encoder, model: parts.Model) -> Workload:
    """Returns what a step asks of the hardware."""

    def shape(images: int, prefix: int, suffix: int) -> dict[str, int]:
        return {"images": images, "prefix": prefix, "suffix": suffix}

    def sizes(params: Any) -> dict[str, int]:
        return {name: leaf.size for name, leaf in trees.named_leaves(params).items()}

    shares = flops.shares(sizes(model.abstract_params()), sizes(model.abstract_state().params))

    def training(*counts: int) -> float:
        forward = flops.forward(config.model, encoder.vocabulary, **shape(*counts))
        return sum(flops.training(forward, *shares).values())

    chip = chips.of(jax.devices()[0])
    return Workload(
        batch_size=config.loader.batch_size,
        devices=model.mesh.size,
        images=len(config.loader.views) * config.loader.history,
        prefix=config.sequence.prefix,
        suffix=config.sequence.suffix,
        flops=training,
        tokens=lambda *counts: flops.length(config.model, **shape(*counts)),
        peak=None if chip is None else chip.flops,
    )
