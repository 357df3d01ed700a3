"""The training loop: take a batch, step, call the hooks that are due."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax

from vla_jax.core.batch import Batch
from vla_jax.core.errors import UserError
from vla_jax.train import loss, step
from vla_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, and how often to look.

    Attributes:
      steps: updates in all.
      log_every: steps between two lines of metrics; the means are over those steps.
      eval_every: steps between two held-out and closed-loop evaluations.

    Raises:
      UserError: a value is not positive.
    """

    steps: int = 80_000
    log_every: int = 50
    eval_every: int = 5_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise UserError(
                    f"config.loop.{field.name}", expected=">= 1", found=getattr(self, field.name)
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hook:
    """Something to do every so many steps, and after the last.

    Attributes:
      every: steps between two calls.
      call: (step, state) -> values to show.
    """

    every: int
    call: Callable[[int, TrainState], Mapping[str, float]]


class Clock:
    """Seconds spent on steps, hooks left out; goes on from where a resumed run stopped."""

    def __init__(self, seconds: float = 0.0):
        self._seconds = seconds
        self._since: float | None = None

    def seconds(self) -> float:
        """Returns the seconds so far."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self._seconds + running

    def pause(self) -> None:
        """Stops counting."""
        self._seconds, self._since = self.seconds(), None

    def resume(self) -> None:
        """Goes on counting."""
        self._since = time.perf_counter()


def run(
    state: TrainState,
    train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]],
    batches: Iterator[Batch],
    config: LoopConfig,
    *,
    place: Callable[[Batch], Batch],
    sources: tuple[str, ...],
    hooks: Sequence[Hook],
    log: Callable[[int, Mapping[str, float]], None],
    tick: Callable[[Mapping[str, float]], None],
    stop: Callable[[], bool],
    clock: Clock,
) -> TrainState:
    """Trains until `config.steps`, or until `stop` says so.

    Args:
      state: where to start; its buffers are donated.
      train_step: the jitted update.
      batches: host batches, the first being that of the next step.
      config: how long and how often.
      place: moves a batch to the devices.
      sources: names of the mixture sources, for the metrics.
      hooks: called when due, after the step; all of them after the last step.
      log: receives metrics by step.
      tick: told of every step done, with the values to show.
      stop: asked after every step.
      clock: counts the seconds.

    Returns:
      The last state.

    Raises:
      UserError: the loss is not finite.
    """
    pending: list[step.Metrics] = []
    first = int(state.step) + 1
    shown: dict[str, float] = {}
    clock.resume()
    ahead = place(next(batches)) if first <= config.steps else None
    for n in range(first, config.steps + 1):
        state, metrics = train_step(state, cast(Batch, ahead))
        if n < config.steps:
            ahead = place(next(batches))  # while the devices work on this step
        if jax.default_backend() == "cpu":
            # Programs queued up on several CPU devices starve each other in their collectives.
            jax.block_until_ready(metrics)
        pending.append(metrics["sums"])
        stopping = stop()
        final = stopping or n == config.steps
        due = [hook for hook in hooks if final or n % hook.every == 0]
        if due:
            # Waits for the step, so that no hook saves a ruined state or is charged for the step.
            _check_finite(n, float(metrics["loss"]))
        if final or n % config.log_every == 0:
            values = _fetch(n, metrics, pending, sources)
            log(n, values | {"seconds": clock.seconds(), "steps_averaged": len(pending)})
            shown["loss"] = values["loss"]
            pending.clear()
        clock.pause()
        for hook in due:
            shown |= hook.call(n, state)
        clock.resume()
        tick(shown)
        if stopping:
            break
    clock.pause()
    return state


def _fetch(
    n: int, metrics: dict[str, Any], pending: list[step.Metrics], sources: tuple[str, ...]
) -> dict[str, float]:
    """Waits for step n and turns its metrics into numbers."""
    fetched, sums = jax.device_get((metrics, pending))
    _check_finite(n, float(fetched["loss"]))
    values = {"loss": float(fetched["loss"]), "gradient_norm": float(fetched["gradient_norm"])}
    return values | loss.source_metrics(sums, sources) | loss.source_shares(sums, sources)


def _check_finite(n: int, value: float) -> None:
    if not math.isfinite(value):
        raise UserError(
            f"training step {n}: the loss is {value}",
            expected="a finite number",
            fix="Lower config.optimizer.learning_rate or config.optimizer.clip_norm; "
            "the last checkpoint is kept",
        )
