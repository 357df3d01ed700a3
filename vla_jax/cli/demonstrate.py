"""`vla-jax demonstrate --env=NAME --episodes=N --out=DIR`: a simulator's expert, as RLDS."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags as absl_flags

from vla_jax.cli import flags
from vla_jax.core.errors import UserError
from vla_jax.runtime import progress

if TYPE_CHECKING:
    from vla_jax.envs.demonstrations import Demonstrated


def main(arguments: Sequence[str]) -> None:
    """Plays the scripted expert of an environment and writes DIR/ROBOT/1.0.0."""
    values, _ = flags.parse("demonstrate", arguments, _define, ())
    from vla_jax.data.ingest import rlds
    from vla_jax.envs import demonstrations, table

    for flag in ("env", "out"):
        if getattr(values, flag) is None:
            raise UserError("vla-jax demonstrate", expected=f"--{flag}=...", found="none")
    environment = table.find(values.env)
    split, tasks = demonstrations.resolve(environment, tuple(values.tasks), values.split)
    options = demonstrations.DemonstrationOptions(
        environment=environment.name,
        tasks=tasks,
        split=split,
        episodes=values.episodes,
        image_size=values.image_size,
        noise=values.noise,
        seed=values.seed,
    )
    directory = pathlib.Path(values.out) / environment.robots[0] / rlds.VERSION
    with progress.Progress(f"demonstrate {values.env}", total=values.episodes) as bar:
        written = demonstrations.demonstrate(
            options,
            directory,
            workers_count=values.workers,
            on_progress=lambda done, failed: bar.update(),
        )
    _report(written)


def _report(written: "Demonstrated") -> None:
    rows = [
        ("episodes", written.episodes),
        ("steps", written.steps),
        ("MB", round(written.size / 1e6, 3)),
        *((f"left out, the expert failed: {task}", n) for task, n in written.failed.items()),
    ]
    progress.table(str(written.directory), ("", ""), rows)
    progress.note(f"look at it: vla-jax doctor {written.directory}")


def _define(values: absl_flags.FlagValues) -> None:
    for name, text in (
        ("env", "Environment that has an expert: metaworld or language_table."),
        ("split", "Whose tasks and scenes; by default the first that has all of --tasks."),
    ):
        absl_flags.DEFINE_string(name, None, text, flag_values=values)
    flags.define_path("out", "Folder of TFDS datasets; the new one is OUT/ROBOT/1.0.0.", values)
    absl_flags.DEFINE_list("tasks", [], "Tasks; all of the split by default.", flag_values=values)
    for name, default, least, most, text in (
        ("episodes", 100, 1, 10**8, "Episodes, of all tasks together."),
        ("image_size", None, 16, 4096, "Side of the images in pixels; the cameras' by default."),
        ("seed", 0, 0, 2**32 - 1, "Of the episodes and the noise."),
        ("workers", None, 1, 1024, "Processes; one per core by default."),
    ):
        absl_flags.DEFINE_integer(name, default, text, least, most, flag_values=values)
    absl_flags.DEFINE_float(
        "noise",
        0.0,
        "How far executed commands stray from the expert's: share of half the range, 1 sigma.",
        0.0,
        1.0,
        flag_values=values,
    )
