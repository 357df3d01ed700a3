"""Runs on a cluster: an engine that exists queues and restarts them, this hands them over."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from vla_jax.sweep import local, record
from vla_jax.sweep.plan import Run
from vla_jax.sweep.record import State


class Engine(Protocol):
    """A queue that others run."""

    def queued(self, runs: Sequence[Run]) -> set[str]:
        """Returns the names of the runs that it holds, waiting or running."""
        ...

    def submit(self, runs: Sequence[Run]) -> None:
        """Hands runs over.

        Raises:
          UserError: the engine refuses.
        """
        ...


def drive(
    engine: Engine,
    runs: Sequence[Run],
    *,
    watch: float | None,
    tell: Callable[[Mapping[str, str]], None],
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, str]:
    """Submits every run whose prerequisites are done and that is not queued yet.

    Args:
      engine: the queue.
      runs: of the sweep, each after those it needs.
      watch: seconds between looks, until nothing can be done any more; None looks once.
      tell: called with the states after each look.
      sleep: waits.

    Returns:
      The state of every run: done, running (queued), waiting for another, failed (this command has
      submitted it, it is in the queue no more and has no results) or blocked by such a one.
    """
    submitted: set[str] = set()
    while True:
        states = _states(engine, runs, submitted)
        ready = [
            run
            for run in runs
            if states[run.name] is local.WAITING
            and all(record.read(need).state is State.DONE for need in run.needs)
        ]
        for run in ready:
            run.directory.mkdir(parents=True, exist_ok=True)
            record.begin(run)
            states[run.name] = local.RUNNING
        if ready:
            engine.submit(ready)
            submitted |= {run.name for run in ready}
        tell(states)
        if watch is None or local.RUNNING not in states.values():
            return states
        sleep(watch)


def _states(engine: Engine, runs: Sequence[Run], submitted: set[str]) -> dict[str, str]:
    # The queue first: a run that ends in between is then done, not failed.
    queued = engine.queued(runs)
    states: dict[str, str] = {}
    for run in runs:
        if run.name in queued:
            states[run.name] = local.RUNNING
        elif record.read(run).state is State.DONE:
            states[run.name] = local.DONE
        elif run.name in submitted:
            states[run.name] = local.FAILED
        elif any(states.get(need.name) in (local.FAILED, local.BLOCKED) for need in run.needs):
            states[run.name] = local.BLOCKED
        else:
            states[run.name] = local.WAITING
    return states
