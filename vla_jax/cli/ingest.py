"""`vla-jax ingest SOURCE --format=F --out=DIR --name=NAME`: other formats to RLDS."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags as absl_flags

from vla_jax.cli import flags
from vla_jax.core.errors import UserError
from vla_jax.runtime import progress

if TYPE_CHECKING:
    from vla_jax.data.ingest.formats import Ingested
    from vla_jax.data.ingest.preview import Preview


def main(arguments: Sequence[str]) -> None:
    """Converts a dataset, or with `--dry-run` shows what its first three episodes would become."""
    values, (source,) = flags.parse("ingest", arguments, _define, ("SOURCE",))
    from vla_jax.data.ingest import formats, options, preview
    from vla_jax.data.ingest.encoding import Encoder

    if values.format is None:
        raise UserError("vla-jax ingest", expected="--format=...", found="none")
    directory = None if values.dry_run else _directory(values)
    reader = formats.FORMATS[values.format](
        pathlib.Path(source),
        options.Options(
            encoder=Encoder(lossless=values.lossless),
            orientation=values.orientation,
            instruction=values.instruction,
            tolerance_s=values.tolerance_s,
            check_statistics=values.check_statistics,
        ),
    )
    for note in reader.notes:
        progress.note(note)
    if directory is None:
        allowed = {"on_corrupt": values.on_corrupt, "max_skipped": values.max_skipped}
        _show(preview.preview(reader, **allowed))
        return
    with progress.Progress(f"ingest {values.name}", total=len(reader)) as bar:
        written = formats.ingest(
            reader,
            directory,
            name=values.name,
            description=f"{source}, read as {values.format}. {' '.join(reader.notes)}",
            on_corrupt=values.on_corrupt,
            max_skipped=values.max_skipped,
            on_progress=lambda episode: bar.update(),
        )
    _report(written)


def _directory(values: absl_flags.FlagValues) -> pathlib.Path:
    """Returns OUT/NAME/VERSION, where TFDS looks for it."""
    from vla_jax.data.ingest import rlds

    for flag in ("out", "name"):
        if getattr(values, flag) is None:
            raise UserError("vla-jax ingest", expected=f"--{flag}=...", found="none")
    return pathlib.Path(values.out) / values.name / rlds.VERSION


def _show(found: "Preview") -> None:
    progress.table(
        f"the first {len(found.episodes)} of {found.total} episodes"
        + f", {len(found.skipped)} damaged ones passed over" * bool(found.skipped),
        ("feature of a step", "format", "lowest", "highest"),
        found.rows(),
    )
    progress.note(f"steps: {', '.join(map(str, found.steps))}")
    for text in found.instructions:
        progress.note(f"instruction: {text}")
    for reason in found.skipped:
        progress.note(f"would be left out: {reason}")
    if unread := found.total - found.read:
        progress.note(f"not read, sound or not: the other {unread} episodes")
    progress.note(
        f"nothing was written; the whole would take about {found.size / 1e6:.1f} MB. "
        "Run it again without --dry-run"
    )


def _report(written: "Ingested") -> None:
    rows = [
        ("episodes", written.episodes),
        ("steps", written.steps),
        ("distinct instructions", written.instructions),
        ("MB", round(written.size / 1e6, 3)),
        ("episodes left out", len(written.skipped)),
    ]
    progress.table(str(written.directory), ("", ""), rows)
    for reason in written.skipped:
        progress.note(f"left out: {reason}")
    progress.note(f"index it: vla-jax index {written.directory}")
    progress.note(f"look at it: vla-jax doctor {written.directory}")


def _define(values: absl_flags.FlagValues) -> None:
    from vla_jax.data.ingest import formats, options, sound

    absl_flags.DEFINE_enum(
        "format", None, list(formats.FORMATS), "Format of SOURCE.", flag_values=values
    )
    flags.define_path("out", "Folder of TFDS datasets; the new one is OUT/NAME/1.0.0.", values)
    absl_flags.DEFINE_string("name", None, "Name of the dataset.", flag_values=values)
    absl_flags.DEFINE_string(
        "instruction", "", "Instruction of episodes that have none.", flag_values=values
    )
    absl_flags.DEFINE_boolean(
        "dry_run",
        False,
        "Show schema, ranges and instructions of three sound episodes, and what would be left out "
        "before the third; write nothing.",
        flag_values=values,
    )
    absl_flags.DEFINE_boolean(
        "lossless", False, "Encode pixels as PNG, not as JPEG of quality 95.", flag_values=values
    )
    absl_flags.DEFINE_enum(
        "orientation",
        "auto",
        ["auto", *options.ORIENTATION_NOTES],
        "How to turn images that are stored as pixels or video; auto is the format's convention.",
        flag_values=values,
    )
    absl_flags.DEFINE_enum(
        "on_corrupt",
        "error",
        ["error", "skip"],
        "Stop at a damaged episode or file, or leave it out, count and list it.",
        flag_values=values,
    )
    absl_flags.DEFINE_integer(
        "max_skipped",
        sound.MAX_SKIPPED,
        "With --on_corrupt=skip: how many episodes may be left out.",
        lower_bound=0,
        flag_values=values,
    )
    _define_lerobot(values)


def _define_lerobot(values: absl_flags.FlagValues) -> None:
    from vla_jax.data.ingest import options

    absl_flags.DEFINE_float(
        "tolerance_s",
        options.Options.tolerance_s,
        "LeRobot: how far from its time stamp a frame of a film may be, seconds, where the film's "
        "frames are not as many as the steps of its episodes.",
        flag_values=values,
    )
    absl_flags.DEFINE_boolean(
        "check_statistics",
        True,
        "LeRobot: compare the numbers with the statistics in the metadata.",
        flag_values=values,
    )
