"""`vla-jax export WORKDIR OUT`: the policy as a folder that runs in PyTorch alone."""

from collections.abc import Sequence

from absl import flags as absl_flags

from vla_jax.cli import flags
from vla_jax.runtime import compilation, progress


def main(arguments: Sequence[str]) -> None:
    """Writes the folder and, where PyTorch is installed, checks that it decodes the same."""
    values, (path, out) = flags.parse("export", arguments, _define, ("WORKDIR", "OUT"))
    # Imported late, so that a typing error in a flag is told at once.
    from vla_jax.experiment import exporting
    from vla_jax.experiment.workdir import Workdir

    compilation.use_cache()
    report = exporting.export(Workdir(path), out, values.robot)
    progress.note(f"exported step {report.step} to {out}")
    if report.tokens:
        progress.note(
            f"parity: all {report.tokens} tokens of {report.frames} {report.source} are equal "
            f"in PyTorch"
        )
    else:
        progress.note("parity: not checked, PyTorch is not installed (pip install vla_jax[torch])")
    progress.note(f'run it: python {out}/torch_policy.py --image FILE --instruction "..."')


def _define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string(
        "robot", None, "Robot dataset whose robot it is, if there are several.", flag_values=values
    )
