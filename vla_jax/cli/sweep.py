"""`vla-jax sweep experiments/NAME/sweep.py`: many runs, compared; run again to go on."""

import pathlib
import shlex
import signal
import sys
import typing
from collections.abc import Mapping, Sequence

from absl import flags as absl_flags

from vla_jax.cli import flags
from vla_jax.core.errors import UserError
from vla_jax.core.paths import expand

if typing.TYPE_CHECKING:
    from vla_jax.experiment.config import RunConfig
    from vla_jax.sweep.plan import Run
    from vla_jax.sweep.record import Record
    from vla_jax.sweep.table import Table

_LOCAL_ONLY = ("gpus", "budget")


def main(arguments: Sequence[str]) -> None:
    """Runs what is not done, then writes results.csv, results.md and results.png.

    Exits with 1 if a run failed, 75 if some are left (budget, SIGTERM, a cluster still at work).
    """
    extra = [argument for argument in arguments if argument.startswith("--config.")]
    others = [argument for argument in arguments if argument not in extra]
    values, (path,) = flags.parse("sweep", others, _define, ("SWEEP.py",))
    _check(values)
    # Imported late, so that a typing error in a flag is told at once.
    from vla_jax.runtime import progress
    from vla_jax.sweep import known, plan, stock, sweep, table

    name, definition = sweep.load(path)
    root = pathlib.Path("runs", *(["smoke"] if values.smoke else []), name)
    root = pathlib.Path(values.workdir) if values.workdir else root
    definition = definition.shortened() if values.smoke else definition
    runs = plan.plan(definition, root, _resolve, extra)
    rows = known.rows(list(map(expand, values.known)), definition, runs)
    names = [row.run.name for row in rows]
    if values.known:
        progress.note(f"known from {', '.join(values.known)}: {', '.join(names) or 'none'}")
    if values.dry_run:
        _print_plan(stock.take(runs, names))
        return
    again = stock.set_aside(runs, values.rerun)
    rows = [row for row in rows if row.run.name not in again]
    names = [row.run.name for row in rows]
    records = stock.take(runs, names)
    stock.refuse_stale(records)
    states: Mapping[str, str] = {}
    if not values.table:
        states = _work(name, root, [record.run for record in records], values)
    found = table.gather(definition, stock.take(runs, names), rows)
    _report(found, pathlib.Path(values.out or root))
    _exit(states, shlex.join(["vla-jax", "sweep", *arguments]))


def _work(
    name: str, root: pathlib.Path, runs: "Sequence[Run]", values: absl_flags.FlagValues
) -> Mapping[str, str]:
    from vla_jax.runtime import progress
    from vla_jax.sweep import cluster, jobset, local, slurm
    from vla_jax.sweep.budget import Budget
    from vla_jax.sweep.display import Display

    if values.engine != "local":
        on_slurm = values.engine == "slurm"
        engine = slurm.Slurm(name, root, values.jobs) if on_slurm else jobset.JobSet()

        def tell(states: Mapping[str, str]) -> None:
            progress.table("sweep", ("run", "state"), list(states.items()))

        return cluster.drive(engine, runs, watch=values.watch, tell=tell)
    jobs = values.jobs or max(1, len(values.gpus))
    seconds = None if values.budget is None else values.budget * 3600
    queue = local.Local(runs, jobs=jobs, budget=Budget(seconds), gpus=values.gpus)
    with Display(jobs) as display:
        states = queue.run(display)
    if queue.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt("stopped; the runs are saved, the same command goes on")
    return states


def _report(found: "Table", out: pathlib.Path) -> None:
    from vla_jax.runtime import progress
    from vla_jax.sweep import plot, table

    if not found.rows:
        progress.note("no run is done yet: no table")
        return
    table.write_csv(found, out / "results.csv")
    table.write_markdown(found, out / "results.md")
    plot.draw(found, out / "results.png")
    if found.sweep.pareto is not None:
        plot.pareto(found, out / "pareto.png")
    progress.note((out / "results.md").read_text())
    progress.note(f"{len(found.rows)} runs: {out}/results.csv, results.md, results.png")


def _exit(states: Mapping[str, str], command: str) -> None:
    from vla_jax.sweep import local

    said = set(states.values())
    if said & {local.FAILED, local.BLOCKED}:
        failed = [name for name, state in states.items() if state == local.FAILED]
        sys.stderr.write(f"vla-jax: failed: {', '.join(failed)}. Try them again with: {command}\n")
        sys.exit(1)
    if said - {local.DONE}:
        sys.stderr.write(f"vla-jax: runs are left. Go on with: {command}\n")
        sys.exit(local.AGAIN)


def _print_plan(records: "Sequence[Record]") -> None:
    from vla_jax.runtime import progress

    for record in records:
        why = f" ({record.why})" if record.why else ""
        command = shlex.join(["vla-jax", "train", *record.run.arguments])
        progress.note(f"{record.run.name}: {record.state.value}{why}\n  {command}")


def _resolve(arguments: Sequence[str]) -> "RunConfig":
    from vla_jax.cli import train

    return train.parse([*arguments, "--workdir=any"])[0]


def _check(values: absl_flags.FlagValues) -> None:
    if values.engine != "local":
        for name in _LOCAL_ONLY:
            if getattr(values, name):
                raise UserError(f"--{name}", expected="--engine=local", found=values.engine)
    if values.engine == "jobset" and values.jobs:
        raise UserError("--jobs", expected="a quota of the cluster (Kueue)", found="a flag")
    if values.gpus and values.jobs and values.jobs > len(values.gpus):
        raise UserError("--jobs", expected=f"at most one per GPU of {values.gpus}")


def _define(values: absl_flags.FlagValues) -> None:
    boolean = absl_flags.DEFINE_boolean
    flags.define_path("workdir", "Directory of the sweep; runs/NAME by default.", values)
    flags.define_path("out", "Where tables and pictures go; the workdir by default.", values)
    absl_flags.DEFINE_integer(
        "jobs", None, "Most runs at a time; 1 by default, or one per GPU.", 1, flag_values=values
    )
    absl_flags.DEFINE_list(
        "gpus", [], "GPUs for local runs, one each, such as 0,1,2,3.", flag_values=values
    )
    absl_flags.DEFINE_enum(
        "engine", "local", ["local", "slurm", "jobset"], "Who runs it.", flag_values=values
    )
    absl_flags.DEFINE_float(
        "budget", None, "Hours; no run starts that would end later.", 0.0, flag_values=values
    )
    absl_flags.DEFINE_float(
        "watch",
        None,
        "Seconds between looks at a cluster, until all is done; looks once by default.",
        1.0,
        flag_values=values,
    )
    absl_flags.DEFINE_list(
        "rerun", [], "Runs or arms to make anew; wildcards allowed.", flag_values=values
    )
    absl_flags.DEFINE_list(
        "known",
        [],
        "Files like results.csv, of this or other sweeps; runs that they have are not run again.",
        flag_values=values,
    )
    boolean("smoke", False, "The sweep's short form.", flag_values=values)
    boolean("table", False, "Only the tables, from what is done.", flag_values=values)
    boolean("dry_run", False, "Print the runs and their commands.", flag_values=values)
