"""`vla-jax eval WORKDIR [--episodes=N]`: the fixed episodes and the held-out questions again."""

import dataclasses
from collections.abc import Sequence

from absl import flags as absl_flags

from vla_jax.cli import flags
from vla_jax.runtime import compilation, mesh, progress


def main(arguments: Sequence[str]) -> None:
    """Evaluates the newest checkpoint and rewrites results.json, the curves and the episodes."""
    values, (path,) = flags.parse("eval", arguments, _define, ("WORKDIR",))
    # Imported late, so that a typing error in a flag is told at once.
    from vla_jax.experiment import finish, load, parts, sources
    from vla_jax.experiment.workdir import Workdir

    workdir = Workdir(path)
    config = workdir.config()
    if values.episodes is not None:
        shorter = dataclasses.replace(config.evaluation, episodes=values.episodes)
        config = dataclasses.replace(config, evaluation=shorter)
    mesh.split_cpu(config.mesh)
    compilation.use_cache()
    run = load.open_run(workdir, config)
    progress.note(f"evaluating step {run.step} of {config.loop.steps}")
    with progress.Phases() as phases:
        data = sources.open_data(config, phases)
    finish.finish(config, workdir, run.policies, data, parts.summary(config, run.step, run.seconds))


def _define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_integer(
        "episodes",
        None,
        "Episodes per split; as the run's configuration says by default.",
        flag_values=values,
    )
