"""`vla-jax train --config=FILE:variant --workdir=DIR`: data, training, evaluation, pictures."""

import contextlib
import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

from vla_jax.cli import flags
from vla_jax.core import config as config_lib
from vla_jax.core.errors import UserError
from vla_jax.experiment import config_file
from vla_jax.experiment.config import RunConfig
from vla_jax.runtime import compilation, distributed, interruption, mesh, peers, provenance


def main(arguments: Sequence[str]) -> None:
    """Trains and evaluates; the same command again resumes or, when done, evaluates anew."""
    config, values = parse(arguments)
    interruption.end_on_sigterm()
    mesh.split_cpu(config.mesh)
    compilation.use_cache()
    # Imported late, so that a typing error in a flag is told at once.
    from vla_jax.experiment import finish, training
    from vla_jax.experiment.workdir import Workdir

    workdir = Workdir(values.workdir)
    try:
        with (
            distributed.joined(flags.processes(values)),
            workdir.held() if peers.is_first() else contextlib.nullcontext(),
        ):
            trained = training.train(config, workdir, _origin(arguments, config, values))
            if peers.is_first():  # nothing that follows needs the others
                finish.finish(config, workdir, trained.policies, trained.data, trained.summary)
    except KeyboardInterrupt as stop:
        command = f"vla-jax train {shlex.join(arguments)}"
        raise type(stop)(f"{stop or 'interrupted'}. Go on with: {command}") from stop


def _origin(
    arguments: Sequence[str], config: RunConfig, values: absl_flags.FlagValues
) -> dict[str, Any]:
    """Says what asked for a run: the command, how it differs from its config file, which code."""
    plain = config_file.load(values.config)
    return {
        "command": shlex.join(["vla-jax", "train", *arguments]),
        "config": values.config,
        "overrides": config_lib.differences(config_lib.to_json(plain), config_lib.to_json(config)),
        "code": provenance.code(),
    }


def parse(arguments: Sequence[str]) -> tuple[RunConfig, absl_flags.FlagValues]:
    """Returns the resolved configuration, and the flags with the workdir.

    Raises:
      UserError: see `flags.parse_run`.
    """
    config, values = flags.parse_run("train", arguments, _define, ("config", "workdir"))
    begin, given = values["from"].value, config.pretrained
    if begin is None:
        return config, values
    if given.path not in (None, begin):
        raise UserError("--from and config.pretrained.path", expected=given.path, found=begin)
    pretrained = dataclasses.replace(given, path=begin)
    return dataclasses.replace(config, pretrained=pretrained), values


def _define(values: absl_flags.FlagValues) -> None:
    flags.define_path(
        "from",
        "What to start from: the workdir of another run, or a released checkpoint; the same as "
        "--config.pretrained.path.",
        values,
    )
    flags.define_path("workdir", "Directory of the run; the same again resumes.", values)
    flags.define_processes(values)
