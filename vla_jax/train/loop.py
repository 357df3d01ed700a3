"""The training loop: take a batch, step, write a line and call the hooks that are due."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import jax

from vla_jax.core.batch import Batch
from vla_jax.core.fields import Checked, Count, Natural
from vla_jax.train.state import TrainState
from vla_jax.train.window import Failed, Window


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig(Checked):
    """How long, how often to look, and what to do where numbers end.

    Attributes:
      steps: updates in all.
      log_every: steps between two lines of metrics; the means are over those steps.
      eval_every: steps between two held-out and closed-loop evaluations.
      on_nonfinite: what a batch does whose loss or gradient is not finite: `stop` the run, or
        `skip` its update. Either way the examples are named and the batch is written to
        WORKDIR/nonfinite/.
      max_nonfinite: batches that may be skipped in a run; one more stops it.

    Raises:
      UserError: a value is out of range.
    """

    steps: Count = 80_000
    log_every: Count = 50
    eval_every: Count = 5_000
    on_nonfinite: Literal["stop", "skip"] = "stop"
    max_nonfinite: Natural = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hook:
    """Something to do every so many steps.

    Attributes:
      every: steps between two calls.
      call: (step, state) -> values to show.
      at_end: True: called after the last step or a stop as well, due or not; False: not even if
        it is due.
    """

    every: int
    call: Callable[[int, TrainState], Mapping[str, float]]
    at_end: bool = True


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


class Feed:
    """Batches on the devices, and the time that waiting for them took.

    Args:
      batches: host batches.
      place: moves one to the devices.
    """

    def __init__(self, batches: Iterator[Batch], place: Callable[[Batch], Batch]):
        self._batches, self._place = batches, place
        self.waited = 0.0
        """Seconds."""

    def take(self) -> Batch:
        """Returns the next batch."""
        began = time.perf_counter()
        batch = next(self._batches)
        self.waited += time.perf_counter() - began
        return self._place(batch)


def run(
    state: TrainState,
    train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]],
    feed: Feed,
    config: LoopConfig,
    *,
    window: Window,
    hooks: Sequence[Hook],
    log: Callable[[int], Mapping[str, float]],
    tick: Callable[[Mapping[str, float]], None],
    stop: Callable[[int], bool],
    on_nonfinite: Callable[[Failed], None],
    clock: Clock,
) -> TrainState:
    """Trains until `config.steps`, or until `stop` says so.

    Args:
      state: where to start; its buffers are donated.
      train_step: the jitted update.
      feed: batches, the first being that of the next step.
      config: how long and how often.
      window: takes the metrics of every step.
      hooks: called when due, after the step.
      log: writes a line about the window, as of a step, and returns the values to show; the
        window is cleared behind it.
      tick: told of every step done, with the values to show.
      stop: asked after every step.
      on_nonfinite: told of steps whose loss or gradient is not finite, before anything is logged
        or saved behind them; raises to end the run.
      clock: counts the seconds.

    Returns:
      The last state.
    """
    first, shown = int(state.step) + 1, {}
    clock.resume()
    batch = feed.take() if first <= config.steps else None
    for n in range(first, config.steps + 1):
        state, metrics = train_step(state, cast(Batch, batch))
        batch = feed.take() if n < config.steps else None  # while the devices work
        if jax.default_backend() == "cpu":
            # Programs queued up on several CPU devices starve each other in their collectives.
            jax.block_until_ready(metrics)
        window.add(n, metrics)
        stopping = stop(n)
        final = stopping or n == config.steps
        due = [hook for hook in hooks if (hook.at_end if final else n % hook.every == 0)]
        # A line is not written because of a stop: those of the resumed run are as if never stopped.
        is_line = n % config.log_every == 0 or n == config.steps
        if due or is_line or final:
            # Waits for the step, so that no hook saves a ruined state or is charged for the step.
            for failed in window.settle():
                on_nonfinite(failed)
        if is_line:
            shown |= log(n)
            window.clear()
        clock.pause()
        for hook in due:
            shown |= hook.call(n, state)
        clock.resume()
        tick(shown)
        if stopping:
            break
    clock.pause()
    return state
