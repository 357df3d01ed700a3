"""The two embedded datasets on disk: generated once per configuration, then found again.

A dataset lives in `<data_dir>/<name>/<hash of its configuration>/1.0.0`, so that a changed
question setting leaves the demonstrations alone. It is written beside its place and renamed into
it, so that a folder with that name is whole.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

from vla_jax.core import json_file, paths
from vla_jax.core.errors import UserError, listed
from vla_jax.core.fields import Checked, Range, Seed
from vla_jax.data import records
from vla_jax.envs import workers
from vla_jax.envs.tabletop import demonstrations, questions
from vla_jax.envs.tabletop.demonstrations import DemonstrationsConfig
from vla_jax.envs.tabletop.questions import QuestionsConfig

VERSION = "1.0.0"
GENERATION_FILE = "generation.json"  # ours, beside the files of TFDS: configuration and file sizes
_INFO_FILE = "dataset_info.json"
_MAX_WORKERS = 4
_EPISODES_PER_CALL, _EPISODES_PER_SHARD = 50, 1000
_QUESTIONS_PER_CALL, _QUESTIONS_PER_SHARD = 250, 5000

OnProgress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetsConfig(Checked):
    """Everything that changes the content of the two datasets.

    Attributes:
      image_size: side of the images in pixels, in both.
      seed: seed of both.
      demonstrations: the robot dataset.
      questions: the question dataset.
    """

    image_size: Annotated[int, Range(16, 4096)] = 64
    seed: Seed = 0
    demonstrations: DemonstrationsConfig = dataclasses.field(default_factory=DemonstrationsConfig)
    questions: QuestionsConfig = dataclasses.field(default_factory=QuestionsConfig)


class DatasetPaths(NamedTuple):
    """The version directories that `tfds.builder_from_directory` reads."""

    robot: Path
    web: Path


class _Generation(TypedDict):
    """What is read of `GENERATION_FILE`: sizes in bytes by file name."""

    format: str
    files: dict[str, int]


class _Plan(NamedTuple):
    """One dataset: its identity, and per split how many examples come from which calls."""

    name: str
    fields: dict[str, Any]
    description: str
    splits: dict[str, int]
    per_call: int
    per_shard: int
    label: str


def directories(config: DatasetsConfig, data_dir: str | os.PathLike[str]) -> DatasetPaths:
    """Where `ensure` puts the datasets of a configuration, whether or not they exist.

    Args:
      config: what the datasets hold.
      data_dir: root of all datasets.
    """
    robot, web = (
        Path(paths.expand(data_dir)) / plan.name / _hash(plan.fields) / VERSION
        for plan in _plans(config)
    )
    return DatasetPaths(robot, web)


def ensure(
    config: DatasetsConfig,
    data_dir: str | os.PathLike[str],
    on_progress: OnProgress | None = None,
    *,
    workers: int | None = None,
) -> DatasetPaths:
    """Generates what is missing of the two datasets, and returns where they are.

    The content depends on the configuration alone: not on the number of workers, not on earlier
    runs.

    Args:
      config: what the datasets hold.
      data_dir: root of all datasets; made if missing.
      on_progress: called with a description, the examples done and their total.
      workers: processes to generate with; by default one per core, at most four.

    Returns:
      The version directories of the robot and of the question dataset.

    Raises:
      UserError: a folder in the way is half written or of another format, or the disk is full or
        not writable.
    """
    found = directories(config, data_dir)
    count = workers or min(os.cpu_count() or 1, _MAX_WORKERS)
    for plan, path in zip(_plans(config), found, strict=True):
        if not _is_complete(path):
            _generate(config, plan, path, on_progress or _ignore, count)
    return found


def _ignore(description: str, done: int, total: int) -> None:
    del description, done, total


def _plans(config: DatasetsConfig) -> tuple[_Plan, _Plan]:
    shared = {"image_size": config.image_size, "seed": config.seed}
    return (
        _Plan(
            name=demonstrations.NAME,
            fields=shared | _fields(config.demonstrations),
            description="A gripper moves blocks on a table: scripted, noisy demonstrations.",
            splits={demonstrations.SPLIT: config.demonstrations.episodes},
            per_call=_EPISODES_PER_CALL,
            per_shard=_EPISODES_PER_SHARD,
            label="robot demonstrations",
        ),
        _Plan(
            name=questions.NAME,
            fields=shared | dataclasses.asdict(config.questions),
            description="Questions and answers about pictures of blocks on a table.",
            splits={"train": config.questions.train, "validation": config.questions.validation},
            per_call=_QUESTIONS_PER_CALL,
            per_shard=_QUESTIONS_PER_SHARD,
            label="web questions",
        ),
    )


def _fields(config: DemonstrationsConfig) -> dict[str, Any]:
    """Returns what the content depends on, as before there were plans where there are none."""
    fields = dataclasses.asdict(config)
    if not config.plans:
        del fields["plans"]
    return fields


def _hash(fields: dict[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _is_complete(path: Path) -> bool:
    """Whether a dataset is there and whole.

    Raises:
      UserError: something else is there.
    """
    if not path.exists():
        return False
    if not path.is_dir():
        raise UserError(f"dataset folder {path}", expected="a folder", found="a file")
    fix = f"Delete the folder {path} and run again, it will be generated anew"
    if not (path / _INFO_FILE).exists() or not (path / GENERATION_FILE).exists():
        raise UserError(
            f"dataset folder {path} is half written",
            expected=f"{_INFO_FILE} and {GENERATION_FILE}",
            found=listed(sorted(entry.name for entry in path.iterdir()), 4) or "nothing",
            fix=fix,
        )
    generation = json_file.read(path / GENERATION_FILE, _Generation, fix=fix)
    if generation["format"] != VERSION:
        raise UserError(
            f"dataset folder {path} is of another format",
            expected=f"format {VERSION}",
            found=f"format {generation['format']}",
            fix=fix,
        )
    for name, size in generation["files"].items():
        file = paths.below(path, name, f"{path / GENERATION_FILE}")
        found = file.stat().st_size if file.exists() else "no such file"
        if found != size:
            raise UserError(
                f"dataset folder {path} is damaged, file {name}",
                expected=f"{size} bytes",
                found=found,
                fix=fix,
            )
    return True


def _generate(
    config: DatasetsConfig, plan: _Plan, path: Path, on_progress: OnProgress, count: int
) -> None:
    """Writes a dataset beside its place and renames it; leaves nothing behind on failure."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{VERSION}.partial-", dir=path.parent))
        try:
            _write(config, plan, partial, on_progress, count)
            partial.chmod(0o755)  # mkdtemp's folders are closed to others
            _rename_unless_present(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write dataset {path}: {error.strerror}",
            fix="Free space, or choose another data directory",
        ) from error


def _rename_unless_present(partial: Path, path: Path) -> None:
    """Renames; a run beside this one that finished first wrote the same content, and wins."""
    try:
        partial.rename(path)
    except OSError:
        if not _is_complete(path):
            raise


def _write(
    config: DatasetsConfig, plan: _Plan, directory: Path, on_progress: OnProgress, count: int
) -> None:
    """Writes all files of a dataset into an empty directory."""
    total = sum(plan.splits.values())
    done = 0
    on_progress(plan.label, 0, total)

    def examples(split: str, size: int) -> Generator[dict[str, Any]]:
        nonlocal done
        function, arguments = _source(config, plan, split)
        edges = [*range(0, size, plan.per_call), size]
        calls = [(*arguments, *span) for span in itertools.pairwise(edges)]
        chunks = workers.map_ordered(function, calls, workers=min(count, len(calls)))
        with contextlib.closing(chunks):
            for chunk in chunks:
                done += len(chunk)
                on_progress(plan.label, done, total)
                yield from chunk

    with contextlib.ExitStack() as stack:
        # Closing stops the workers also when writing fails or Ctrl-C arrives in between.
        splits = {
            split: (stack.enter_context(contextlib.closing(examples(split, size))), size)
            for split, size in plan.splits.items()
        }
        features = (
            demonstrations.features(config.image_size, plans=config.demonstrations.plans)
            if plan.name == demonstrations.NAME
            else questions.features(config.image_size)
        )
        records.write_dataset(
            directory,
            name=plan.name,
            features=features,
            splits=splits,
            examples_per_shard=plan.per_shard,
            version=VERSION,
            description=plan.description,
        )
    files = {entry.name: entry.stat().st_size for entry in sorted(directory.iterdir())}
    generation = {"format": VERSION, "config": plan.fields, "files": files}
    (directory / GENERATION_FILE).write_text(json.dumps(generation, indent=2) + "\n")


def _source(
    config: DatasetsConfig, plan: _Plan, split: str
) -> tuple[Callable[..., list[dict[str, Any]]], tuple[Any, ...]]:
    if plan.name == demonstrations.NAME:
        return demonstrations.episodes, (config.demonstrations, config.image_size, config.seed)
    return questions.questions, (config.questions, config.image_size, config.seed, split)
