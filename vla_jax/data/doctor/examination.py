"""One dataset, all checks."""

import dataclasses
import os
from collections.abc import Callable, Sequence

from vla_jax.core.errors import UserError
from vla_jax.data import indexing, schema, version_directories
from vla_jax.data.doctor import actions, content, episodes, shards
from vla_jax.data.doctor import recording as recording_lib
from vla_jax.data.doctor.finding import COST, Finding, conclude, grade, listed
from vla_jax.data.doctor.recording import Recording
from vla_jax.data.frame_index import FrameIndex
from vla_jax.data.indexing import OnProgress, Wanted
from vla_jax.data.robots.robot import Robot
from vla_jax.data.steps import Column

_CHECKS: tuple[Callable[[Recording], Finding], ...] = (
    content.language,
    actions.finite,
    actions.dimensions,
    actions.outliers,
    actions.gripper,
    actions.idle,
    episodes.lengths,
    episodes.flags,
    episodes.duplicates,
    episodes.control_rate,
)
_NO_STEPS = "records without steps, a question set: only records and pictures are examined"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examination:
    """What was found in one split.

    Attributes:
      name: of the dataset.
      directory: where it lies.
      split: the split.
      findings: the worst first.
      recording: what was looked at; None where the dataset cannot be read.
    """

    name: str
    directory: str
    split: str
    findings: tuple[Finding, ...]
    recording: Recording | None

    @property
    def grade(self) -> tuple[int, str]:
        """0..100 and its letter."""
        return grade(self.findings)

    @property
    def failed(self) -> bool:
        """Whether something makes the data unusable."""
        return any(finding.severity == "error" for finding in self.findings)


def examine(
    directory: str | os.PathLike[str],
    *,
    split: str = "train",
    robot: Robot | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    everything: bool = False,
    on_progress: OnProgress | None = None,
) -> Examination:
    """Runs every check on one split; the same data give the same findings.

    Args:
      directory: a TFDS version directory.
      split: the split.
      robot: the dataset's adapter; without one the raw numbers are looked at.
      cache_dir: where the frame index goes when it cannot lie beside the data.
      everything: every checksum and every picture, not a sample.
      on_progress: (what, done, total).

    Raises:
      UserError: this is no dataset, it has no such split, or the index cannot be written. What is
        wrong inside the data is found, not raised.
    """
    name, _ = version_directories.title(directory)
    found_split = schema.read_split(directory, split)
    in_bytes = indexing.in_megabytes(on_progress)
    found = [shards.records(directory, found_split, everything=everything, on_progress=in_bytes)]
    recording = None
    try:
        index, unfit = _index(directory, split, robot, cache_dir, in_bytes)
    except UserError as error:
        # A place that cannot be written or read is no fault of the data.
        if isinstance(error.__cause__, OSError):
            raise
        found.append(conclude("index", [("error", str(error).rstrip("."))], "", score=0))
    else:
        if index.left_out:
            found.append(_left_out(index))
        recording, fits = recording_lib.read(index, None if unfit else robot)
        if any(column.feature.per_step for column in index.columns):
            found += [unfit or fits, *(check(recording) for check in _CHECKS)]
        else:
            found.append(unfit or conclude("schema", [("note", _NO_STEPS)], ""))
        found.append(content.pictures(recording, everything=everything, on_progress=on_progress))
    worst_first = sorted(found, key=lambda finding: -COST[finding.severity])
    return Examination(
        name=name,
        directory=os.fspath(directory),
        split=split,
        findings=tuple(worst_first),
        recording=recording,
    )


def _index(
    directory: str | os.PathLike[str],
    split: str,
    robot: Robot | None,
    cache_dir: str | os.PathLike[str] | None,
    on_progress: OnProgress | None,
) -> tuple[FrameIndex, Finding | None]:
    """Opens or makes the index; also returns what of the adapter is not in the dataset."""
    wanted, unfit = Wanted(), None
    if robot is not None:
        try:
            wanted = _with(wanted.columns(directory), robot)
            wanted.columns(directory)
        except UserError as error:
            wanted, unfit = Wanted(), recording_lib.unfit(error)
    # One bad record does not hide what is wrong with the others.
    index = indexing.ensure(
        directory,
        split,
        wanted,
        cache_dir=cache_dir,
        on_corrupt="skip",
        on_progress=on_progress,
    )
    return index, unfit


def _left_out(index: FrameIndex) -> Finding:
    """Makes a Finding of the records that could not be read."""
    count = sum(left.count or 1 for left in index.left_out)
    reasons = listed([left.reason.rstrip(".") for left in index.left_out])
    text = f"{count} episodes cannot be read, and the others are examined: {reasons}"
    return conclude("index", [("error", text)], "", score=index.episodes / (index.episodes + count))


def _with(columns: Sequence[Column], robot: Robot) -> Wanted:
    """Wants what an index has by default, and what the adapter names."""
    default = {
        role: [column.name for column in columns if column.role == role]
        for role in ("image", "array", "text")
    }
    return Wanted(
        images=tuple(dict.fromkeys([*default["image"], *robot.images.values()])),
        arrays=tuple(dict.fromkeys([*default["array"], *robot.arrays])),
        texts=tuple(dict.fromkeys([*default["text"], *robot.instruction])),
    )
