"""`vla-jax dist-check`: whether the processes of a job can work together, before the job.

Started in every process as the job would be, with the same flags.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags as absl_flags

from vla_jax.cli import flags
from vla_jax.runtime import compilation, distributed, mesh, progress


def main(arguments: Sequence[str]) -> None:
    """Prints one table of the processes and one of the speeds.

    Raises:
      SystemExit: 1, something is wrong; it is named with its process and host.
      UserError: the processes do not meet, or run different versions or configurations.
    """
    config = None
    if any(argument.startswith("--config") for argument in arguments):
        config, values = flags.parse_run("dist-check", arguments, _define)
    else:
        values, _ = flags.parse("dist-check", arguments, _define)
    # Imported late, so that a typing error in a flag is told at once.
    from vla_jax.experiment import dist_check
    from vla_jax.experiment.workdir import Workdir

    mesh.split_cpu(config.mesh if config else mesh.MeshConfig())
    compilation.use_cache()
    with distributed.joined(flags.processes(values)):
        if config is not None:
            Workdir.agree(config)
        workdir = pathlib.Path(values.workdir) if values.workdir else None
        report = dist_check.examine(config, workdir)
        versions = ", ".join(f"{k} {v}" for k, v in distributed.versions().items())
        title = f"{len(report.rows)} processes, {versions}"
        progress.table(title, dist_check.HEADER, report.rows)
        rows = [
            (speed.collective, speed.size >> 20, 1e3 * speed.seconds, speed.rate / 1e9)
            for speed in report.speeds
        ]
        header = ("collective", "MiB", "ms", "GB/s per device")
        progress.table("between all devices", header, rows)
        for problem in report.problems:
            progress.note(f"wrong: {problem}")
    if report.problems:
        sys.exit(1)


def _define(values: absl_flags.FlagValues) -> None:
    flags.define_path("workdir", "Directory of the run, which all hosts must share.", values)
    flags.define_processes(values)
