"""`vla-jax index DIR...`: makes the frame index of datasets; one that is up to date stays."""

import time
from collections.abc import Sequence

from absl import flags as absl_flags

from vla_jax.cli import flags
from vla_jax.runtime import progress


def main(arguments: Sequence[str]) -> None:
    """Indexes every dataset in the directories and prints what was found."""
    values, directories = flags.parse("index", arguments, _define, ("DIR...",))
    from vla_jax.data import schema, version_directories

    found = [path for directory in directories for path in version_directories.find(directory)]
    rows = []
    for directory in found:
        present = schema.read_splits(directory)
        for split in values.split or present:
            schema.read_split(directory, split)  # a wrong name is told before anything is read
        rows += [_index(directory, split, values) for split in values.split or present]
    header = ("dataset", "split", "episodes", "frames", "data MB", "index MB", "% of data", "index")
    progress.table(f"datasets: {len(found)}", header, rows)


def _index(directory: str, split: str, values: absl_flags.FlagValues) -> tuple:
    """Sees to the index of one split; returns a row of the table."""
    from vla_jax.data import indexing
    from vla_jax.data.shard_marks import ChangedShardError

    wanted = _wanted(directory, values.arrays)
    make = indexing.build if values.verify else indexing.ensure
    with _Bar() as bar:
        options = {
            "cache_dir": values.cache_dir,
            "on_corrupt": values.on_corrupt,
            "on_progress": bar,
        }
        try:
            index = make(directory, split, wanted, **options)
        except ChangedShardError as change:
            progress.note(str(change))
            index = indexing.build(directory, split, wanted, **options)
    for name, (frame, dimension) in index.not_finite.items():
        what = f"{index.place(frame)}: {name}[{dimension}] is not finite, the first of its feature"
        progress.note(f"{what}. No statistics of it; vla-jax doctor counts such steps")
    size = sum(path.stat().st_size for path in index.folder.rglob("*") if path.is_file())
    data = sum(map(index.files.size, range(len(index.files))))
    counts = (index.name, split, index.episodes, len(index))
    return (*counts, data / 1e6, size / 1e6, 100 * size / data, str(index.folder))


def _wanted(directory: str, arrays: Sequence[str] | None):
    """Returns what to index: of a dataset with an adapter, the numbers that it reads."""
    from vla_jax.data import indexing, schema, version_directories
    from vla_jax.data.robots.table import ROBOTS

    robot = ROBOTS.get(version_directories.title(directory)[0])
    if robot is None:
        return indexing.Wanted(arrays=tuple(arrays) if arrays else None)
    texts = indexing.small(schema.read_schema(directory), "text")
    return indexing.Wanted(
        arrays=tuple(dict.fromkeys((*robot.arrays, *(arrays or ())))),
        texts=tuple(dict.fromkeys((*texts, *robot.instruction))),
    )


class _Bar:
    """A bar in megabytes, shown once there is something to do."""

    def __init__(self) -> None:
        self._bar: progress.Progress | None = None
        self._done = 0

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(*exception)

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = progress.Progress(f"{what}, MB", total=-(-total // 10**6)).__enter__()
            self._began = time.monotonic()
        seconds = max(time.monotonic() - self._began, 1e-9)
        megabytes = -(-done // 10**6)
        self._bar.update(megabytes - self._done, **{"GB/s": f"{done / 1e9 / seconds:.2f}"})
        self._done = megabytes


def _define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_list(
        "split", None, "Splits, separated by commas; all by default.", flag_values=values
    )
    flags.define_path("cache_dir", "Where indexes go instead of beside the data.", values)
    absl_flags.DEFINE_bool(
        "verify",
        False,
        "Reads every record again, whether or not there is an index; all checksums are compared.",
        flag_values=values,
    )
    absl_flags.DEFINE_enum(
        "on_corrupt",
        "error",
        ["error", "skip"],
        "A record that cannot be read is an error, or is left out and named.",
        flag_values=values,
    )
    absl_flags.DEFINE_list(
        "arrays",
        None,
        "Numeric features, separated by commas; by default those of the dataset's robot adapter, "
        "or every one of at most 64 numbers.",
        flag_values=values,
    )
