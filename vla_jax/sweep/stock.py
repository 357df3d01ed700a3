"""What there is of a sweep before anything is started."""

import fnmatch
from collections.abc import Collection, Sequence

from vla_jax.core.errors import UserError, listed, nearest
from vla_jax.sweep import record
from vla_jax.sweep.plan import Run
from vla_jax.sweep.record import Record, State


def take(runs: Sequence[Run], known: Collection[str] = ()) -> list[Record]:
    """Reads what there is of every run that a table shows or that another one waits for.

    Args:
      runs: of the sweep.
      known: names of those whose results are known from elsewhere, which need not be run.
    """
    records = [record.read(run) for run in runs]
    wanted = {run.name for run in runs if run.measured and run.name not in known}
    for found in reversed(records):  # a run stands after those that it needs
        if found.run.name in wanted and found.state is not State.DONE:
            wanted |= {need.name for need in found.run.needs}
    return [found for found in records if found.run.name in wanted or found.state is State.STALE]


def set_aside(runs: Sequence[Run], patterns: Sequence[str]) -> set[str]:
    """Moves the runs away that are to be made anew.

    Args:
      runs: of the sweep.
      patterns: names of runs or arms, with shell wildcards.

    Returns:
      The names of these runs.

    Raises:
      UserError: a pattern names nothing, or a run that is being trained.
    """
    again: set[str] = set()
    for pattern in patterns:
        named = [run for run in runs if _matches(run, pattern)]
        if not named:
            names = [run.name for run in runs]
            raise UserError(
                f"--rerun={pattern}",
                expected="a run or an arm of the sweep",
                found="none of this name",
                fix=nearest(pattern, names) or f"There are {listed(names)}",
            )
        for run in named:
            again.add(run.name)
            if run.directory.exists():
                record.set_aside(run)
    return again


def refuse_stale(records: Sequence[Record]) -> None:
    """Stops before results of another sweep are taken for those of this one.

    Raises:
      UserError: a run on disk differs from what the sweep says.
    """
    stale = [found for found in records if found.state is State.STALE]
    if stale:
        raise UserError(
            "; ".join(f"{found.run.name} on disk is another run: {found.why}" for found in stale),
            fix=f"Undo the change, or run anew with --rerun={','.join(f.run.name for f in stale)}",
        )


def _matches(run: Run, pattern: str) -> bool:
    return fnmatch.fnmatchcase(run.name, pattern) or fnmatch.fnmatchcase(run.arm, pattern)
