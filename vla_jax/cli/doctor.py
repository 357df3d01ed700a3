"""`vla-jax doctor DATASET_DIR`: what is wrong with a dataset, as a table, a page and a code."""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags as absl_flags

from vla_jax.cli import flags
from vla_jax.runtime import progress

_SICK = 2


def main(arguments: Sequence[str]) -> None:
    """Prints the findings and writes the report.

    Raises:
      SystemExit: 2, a finding is an error.
      UserError: this is no dataset, or no such split or robot.
    """
    values, (directory,) = flags.parse("doctor", arguments, _define, ("DATASET_DIR",))
    # Imported late, so that a typing error in a flag is told at once.
    from vla_jax.data import version_directories
    from vla_jax.data.doctor import report
    from vla_jax.data.doctor.examination import examine
    from vla_jax.data.robots import table

    name, version = version_directories.title(directory)
    known = values.robot or (name if name in table.ROBOTS else None)
    with progress.Phases() as phases:
        examination = examine(
            directory,
            split=values.split,
            robot=table.find(known) if known else None,
            cache_dir=values.cache_dir,
            everything=values.all,
            on_progress=phases,
        )
    points, letter = examination.grade
    progress.table(
        f"{name} {version}, split {values.split}: {points} of 100, {letter}",
        ("check", "severity", "sound", "what was found"),
        [
            (finding.name, finding.severity, f"{100 * finding.score:.4g}%", finding.text)
            for finding in examination.findings
        ],
    )
    out = values.out or pathlib.Path(f"doctor_{name}")
    progress.note(f"report: {report.write(examination, out)}")
    if examination.failed:
        sys.exit(_SICK)


def _define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string("split", "train", "Which split to look at.", flag_values=values)
    absl_flags.DEFINE_string(
        "robot",
        None,
        "The dataset's adapter: a name of the table or package.module:NAME; by default the one "
        "of the dataset's own name, and without one the raw numbers are looked at.",
        flag_values=values,
    )
    flags.define_path("out", "Folder of the report; doctor_NAME by default.", values)
    flags.define_path("cache_dir", "Where the frame index goes; beside the data without.", values)
    absl_flags.DEFINE_bool(
        "all",
        False,
        "Look at every checksum and every picture, not at a sample.",
        flag_values=values,
    )
