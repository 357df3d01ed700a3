"""`vla-jax eval CHECKPOINT`: what a policy can do; `vla-jax eval --compare A B`: who is better."""

import dataclasses
import os
import pathlib
import typing
from collections.abc import Sequence

from absl import flags as absl_flags

from vla_jax.cli import flags
from vla_jax.core.errors import UserError
from vla_jax.core.paths import expand
from vla_jax.runtime import compilation, mesh, progress

if typing.TYPE_CHECKING:
    from vla_jax.experiment.trials import Trials

_SLOTS = 50
_OF_AN_ENVIRONMENT = ("splits", "tasks", "seed", "robot", "execute")


def main(arguments: Sequence[str]) -> None:
    """Evaluates the newest checkpoint of a run, drives one environment, or compares results."""
    values, paths = flags.parse("eval", arguments, _define, ("CHECKPOINT...",))
    if values.compare:
        _compare(values, paths)
        return
    if len(paths) != 1:
        raise UserError("vla-jax eval", expected="one CHECKPOINT", found=" ".join(paths))
    from vla_jax.experiment import actors

    compilation.use_cache()
    if values.env is not None or actors.is_exported(paths[0]):
        _drive(values, paths[0])
        return
    for name in _OF_AN_ENVIRONMENT:
        if getattr(values, name):
            raise UserError(f"--{name}", expected="--env=NAME beside it", found="none")
    _everything(values, paths[0])


def _everything(values: absl_flags.FlagValues, path: str) -> None:
    """Rewrites results.json, the curves, the episodes and the report of a run."""
    # Imported late, so that a typing error in a flag is told at once.
    from vla_jax.experiment import finish, load, parts, sources
    from vla_jax.experiment.workdir import Workdir

    workdir = Workdir(path)
    config = workdir.config()
    if values.episodes is not None:
        shorter = dataclasses.replace(config.evaluation, episodes=values.episodes)
        config = dataclasses.replace(config, evaluation=shorter)
    mesh.split_cpu(config.mesh)
    run = load.open_run(workdir, config)
    progress.note(f"evaluating step {run.step} of {config.loop.steps}")
    left_out: list[str] = []
    with progress.Phases() as phases:
        data = sources.open_data(config, phases, left_out)
    for line in left_out:
        progress.note(f"not measured on a dataset that is not here: {line}")
    summary = parts.summary(config, run.step, run.seconds)
    finish.finish(config, workdir, run.policies, data, summary, left_out)


def _drive(values: absl_flags.FlagValues, path: str) -> None:
    """Plays the fixed episodes of one environment."""
    from vla_jax.envs import table
    from vla_jax.experiment import actors, evaluation, finish

    environment = table.find(values.env or "tabletop")
    opened = actors.open_actor(path, environment, values.robot)
    progress.note(f"evaluating {', '.join(f'{k} {v}' for k, v in opened.about.items())}")
    wanted = _trials(values, opened.image_size(environment))
    with progress.Phases() as phases:
        results = evaluation.drive(wanted, opened.policy, values.film, phases)
    default = pathlib.Path(path) / "evaluation" / environment.name
    out = pathlib.Path(values.out) if values.out else default
    settings = {"seed": values.seed or 0, "execute": wanted.execute}
    finish.leave(results, out, {**opened.about, **settings})


def _trials(values: absl_flags.FlagValues, image_size: int | None) -> "Trials":
    from vla_jax.envs import table
    from vla_jax.experiment.trials import Trials

    environment = table.find(values.env or "tabletop")
    return Trials(
        environment=environment,
        episodes={
            split: environment.episodes(split, values.episodes, values.tasks, values.seed or 0)
            for split in values.splits or environment.usual_splits
        },
        image_size=image_size,
        execute=values.execute or 1,
        slots=values.slots or (os.cpu_count() or 1 if environment.apart else _SLOTS),
    )


def _compare(values: absl_flags.FlagValues, paths: Sequence[str]) -> None:
    """Prints how much more often B succeeds than A, with paired tests."""
    from vla_jax.eval import compare
    from vla_jax.experiment import comparison
    from vla_jax.experiment.workdir import write_json

    if len(paths) != 2:
        raise UserError(
            "vla-jax eval --compare",
            expected="A B; several runs as A1,A2,A3",
            found=" ".join(paths),
        )
    first, second = (list(map(expand, path.split(","))) for path in paths)
    found = comparison.compare_runs(first, second, values.env)
    rows = [difference.row() for difference in found]
    for name, side in (("A", first), ("B", second)):
        progress.note(f"{name}: {', '.join(side)}")
    values_of = comparison.to_json(first, second, found)
    progress.table(f"success, B against A ({values_of['test']})", compare.HEADER, rows)
    if values.out:
        write_json(pathlib.Path(values.out), values_of)
        progress.note(f"comparison: {values.out}")


def _define(values: absl_flags.FlagValues) -> None:
    string, integer = absl_flags.DEFINE_string, absl_flags.DEFINE_integer
    string("env", None, "Environment to drive; of --compare: whose results.", flag_values=values)
    absl_flags.DEFINE_list("splits", [], "Some of its splits; all by default.", flag_values=values)
    absl_flags.DEFINE_list("tasks", [], "Some of its tasks.", flag_values=values)
    integer(
        "episodes",
        None,
        "Episodes per split; as the run or the environment's protocol says by default.",
        1,
        flag_values=values,
    )
    integer("seed", None, "Another set of fixed episodes than 0.", 0, flag_values=values)
    integer(
        "slots",
        None,
        f"Environments stepped together; {_SLOTS} by default, one per core of slow simulators.",
        1,
        flag_values=values,
    )
    integer(
        "execute",
        None,
        "Actions of a decision that are executed before the next; 1 by default.",
        1,
        flag_values=values,
    )
    integer("film", 12, "Episodes in the film, half of them failures.", 0, flag_values=values)
    string("robot", None, "Whose policy, where several datasets fit.", flag_values=values)
    flags.define_path(
        "out",
        "Where results go: a folder, CHECKPOINT/evaluation/ENV by default; of --compare a JSON "
        "file.",
        values,
    )
    absl_flags.DEFINE_boolean(
        "compare", False, "Compare two results, A B, or several, A1,A2 B1,B2.", flag_values=values
    )
