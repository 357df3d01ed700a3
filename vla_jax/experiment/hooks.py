"""What a run does beside its updates: lines of metrics, measurements on the way, checkpoints."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from vla_jax.core.errors import UserError, nearest
from vla_jax.data.loader import Loader
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.held_out import HeldOut
from vla_jax.experiment.nonfinite import Nonfinite
from vla_jax.runtime import memory
from vla_jax.runtime.checkpoint import Checkpoints
from vla_jax.runtime.metrics import MetricWriter
from vla_jax.train.loop import Clock, Hook
from vla_jax.train.speed import Speed
from vla_jax.train.state import TrainState
from vla_jax.train.window import Window


@dataclasses.dataclass(kw_only=True)
class Hooks:
    """Writes, measures and saves.

    Attributes:
      config: the run.
      writer: of lines of metrics.
      checkpoints: where to save.
      loader: whose position is saved.
      window: the steps since the last line.
      describe: sums of the window -> metrics per source.
      rates: step -> learning rates by name.
      speed: what the clock says.
      clock: seconds of training.
      nonfinite: counts the batches that were skipped.
      measurements: on held-out examples and in closed loop.
      params: state -> the parameters to measure.
      measured: the last step measured.
    """

    config: RunConfig
    writer: MetricWriter
    checkpoints: Checkpoints
    loader: Loader
    window: Window
    describe: Callable[[Mapping[str, Any]], dict[str, float]]
    rates: Callable[[int], dict[str, float]]
    speed: Speed
    clock: Clock
    nonfinite: Nonfinite
    measurements: HeldOut
    params: Callable[[TrainState], Any]
    measured: int = 0

    def __post_init__(self) -> None:
        self._best: dict[int, float] = {}
        wanted = self.config.checkpoint.best
        if wanted is not None and not self.measurements.gives(wanted):
            raise UserError(
                f"config.checkpoint.best={wanted}: nothing of that name is measured on the way",
                expected=", ".join(self.measurements.names),
                fix=nearest(wanted, self.measurements.names),
            )

    def due(self) -> tuple[Hook, ...]:
        """Returns when to do what; measured first, so that a checkpoint knows how good it is."""
        return (
            Hook(every=self.config.loop.eval_every, call=self.look, at_end=False),
            Hook(every=self.config.checkpoint.every, call=self.save),
        )

    def log(self, n: int) -> Mapping[str, float]:
        """Writes a line about the window."""
        values = dict(self.window.last)
        if self.window.steps:
            values |= self.describe(self.window.sums)
        if self.nonfinite.count:
            values["skipped_steps"] = self.nonfinite.count
        values |= self.rates(n) | {"steps_averaged": self.window.steps}
        values |= self.speed.since(n, self.window.sums) | memory.taken()
        self.writer.write(n, values | {"seconds": self.clock.seconds()})
        shown = {name: values[name] for name in ("loss",) if name in values}
        if "speed/mfu" in values:
            shown["mfu"] = values["speed/mfu"]
        return shown

    def look(self, n: int, state: TrainState) -> Mapping[str, float]:
        """Measures the parameters; saves them as well where the best ones are to stay."""
        values = self.measurements(self.params(state))
        self.writer.write(n, values)
        self.measured = n
        if (best := self.config.checkpoint.best) is not None:
            self._best[n] = values[best]
            self.save(n, state)
        return {"success": values["success/seen"]} if "success/seen" in values else {}

    def save(self, n: int, state: TrainState) -> Mapping[str, float]:
        """Saves everything that the run needs to go on as if it had not stopped."""
        position = {
            "seconds": self.clock.seconds(),
            "window": self.window.state(),
            "nonfinite": self.nonfinite.count,
            "measured": self.measured,
        }
        arrays = state.saved()
        self.checkpoints.save(
            n, arrays, self.loader.state(n) | position, best=self._best.pop(n, None)
        )
        return {}

    def catch_up(self, start: int, state: TrainState) -> None:
        """Measures what a run that was told to stop has saved, but left to be measured."""
        loop = self.config.loop
        if 0 < start < loop.steps and start % loop.eval_every == 0 and self.measured < start:
            self.look(start, state)
