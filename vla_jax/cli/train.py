"""`vla-jax train --config=FILE:variant --workdir=DIR`: data, training, evaluation, pictures."""

import shlex
from collections.abc import Sequence

from vla_jax.cli import flags
from vla_jax.runtime import compilation, mesh


def main(arguments: Sequence[str]) -> None:
    """Trains and evaluates; the same command again resumes or, when done, evaluates anew."""
    config, path = flags.parse_run("train", arguments)
    mesh.split_cpu(config.mesh)
    compilation.use_cache()
    # Imported late, so that a typing error in a flag is told at once.
    from vla_jax.experiment import finish, training
    from vla_jax.experiment.workdir import Workdir

    workdir = Workdir(path)
    try:
        trained = training.train(config, workdir)
        finish.finish(config, workdir, trained.policy, trained.data, trained.summary)
    except KeyboardInterrupt as stop:
        command = f"vla-jax train {shlex.join(arguments)}"
        raise KeyboardInterrupt(f"{stop or 'interrupted'}. Go on with: {command}") from stop
