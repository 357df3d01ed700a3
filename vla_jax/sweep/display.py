"""What a person sees while a sweep runs: a live table, or lines in a log file."""

import time
from collections import Counter
from collections.abc import Mapping

import rich.live
import rich.table

from vla_jax.runtime import metrics, progress
from vla_jax.sweep import local
from vla_jax.sweep.budget import Durations
from vla_jax.sweep.plan import Run
from vla_jax.sweep.record import Record, State

_SECONDS_BETWEEN_TABLES = 2.0
_SECONDS_BETWEEN_LINES = 60.0


class Display:
    """Shows states, used as a context manager; `Local.run` calls it.

    Args:
      jobs: processes at a time, for the time left.
    """

    def __init__(self, jobs: int):
        self._jobs = jobs
        self._told: dict[str, str] = {}
        self._next = 0.0
        self._live: rich.live.Live | None = None

    def __enter__(self) -> "Display":
        """Starts the live table, on a terminal."""
        if progress.console().is_terminal:
            self._live = rich.live.Live(console=progress.console(), auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leaves the last table standing."""
        if self._live is not None:
            self._live.stop()

    def __call__(
        self, states: Mapping[str, str], records: Mapping[str, Record], elapsed: float
    ) -> None:
        """Shows what has changed; the table every two seconds, the summary every minute.

        Args:
          states: of every run, see `local`.
          records: of every run.
          elapsed: seconds since the command began.
        """
        changed = dict(states) != self._told
        now = time.monotonic()
        if not changed and now < self._next:
            return
        if self._live is not None:
            self._live.update(_table(states, records, self._jobs, elapsed), refresh=True)
            self._next = now + _SECONDS_BETWEEN_TABLES
        else:
            for name, state in states.items():
                if state not in (self._told.get(name), local.WAITING):
                    progress.note(f"{name}: {state}")
            progress.note(_summary(states, records, self._jobs, elapsed))
            self._next = now + _SECONDS_BETWEEN_LINES
        self._told = dict(states)


def step_of(run: Run) -> int:
    """Returns the last step that a run has logged; 0 where it has none."""
    rows = metrics.read(run.workdir)
    return int(rows[-1]["step"]) if rows else 0


def seconds_left(
    states: Mapping[str, str], records: Mapping[str, Record], jobs: int
) -> float | None:
    """Returns the seconds until all is done; None where no duration is known yet."""
    durations = Durations(records)
    left = [
        durations.left(records[name].run)
        for name, state in states.items()
        if state in (local.WAITING, local.RUNNING)
    ]
    known = [seconds for seconds in left if seconds is not None]
    if len(known) < len(left):
        return None
    return max([*known, sum(known) / jobs], default=0.0)


def _summary(
    states: Mapping[str, str], records: Mapping[str, Record], jobs: int, elapsed: float
) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in Counter(states.values()).items())
    left = seconds_left(states, records, jobs)
    rest = f", about {progress.duration(left)} left" if left else ""
    return f"{counts}; {progress.duration(elapsed)} so far{rest}"


def _table(
    states: Mapping[str, str], records: Mapping[str, Record], jobs: int, elapsed: float
) -> rich.table.Table:
    grid = rich.table.Table(title=_summary(states, records, jobs, elapsed), title_justify="left")
    for name in ("run", "state", "step", "time", "left"):
        grid.add_column(name, justify="left" if name in ("run", "state") else "right")
    durations = Durations(records)
    for name, state in states.items():
        record = records[name]
        begun = state is local.RUNNING or record.state is not State.NEW
        left = durations.left(record.run) if state in (local.WAITING, local.RUNNING) else None
        grid.add_row(
            name,
            state,
            f"{step_of(record.run)}/{record.run.steps}" if begun else "",
            progress.duration(record.seconds) if record.seconds else "",
            progress.duration(left) if left is not None else "",
        )
    return grid
