"""`vla-jax report WORKDIR`: the page of a run, finished or not, from what lies in its workdir."""

from collections.abc import Sequence

from vla_jax.cli import flags
from vla_jax.runtime import progress


def main(arguments: Sequence[str]) -> None:
    """Writes WORKDIR/report.html; nothing is measured."""
    _, (path,) = flags.parse("report", arguments, lambda values: None, ("WORKDIR",))
    # Imported late, so that a typing error in a flag is told at once.
    from vla_jax.experiment import page
    from vla_jax.experiment.workdir import Workdir

    progress.note(f"report: {page.write(Workdir(path))}")
