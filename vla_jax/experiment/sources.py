"""The datasets of a run: found or generated, indexed, opened as mixture sources."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from etils import epath

from vla_jax.core.errors import UserError
from vla_jax.data import indexing, mixture, splits
from vla_jax.data.episodes import Episodes, Part
from vla_jax.data.frame_index import FrameIndex
from vla_jax.data.mixture import RobotConfig, WebConfig
from vla_jax.data.robots import table
from vla_jax.data.robots.robot import Robot
from vla_jax.data.source import Source
from vla_jax.data.web.questions import Questions
from vla_jax.data.web.table import FORMATS, open_web
from vla_jax.envs.tabletop import datasets
from vla_jax.experiment.config import RunConfig
from vla_jax.runtime import peers, progress, storage

OnProgress = Callable[[str, int, int], None]
TABLETOP, QUESTIONS = "tabletop", "tabletop_questions"  # generated where no directory is named


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The datasets of a run, opened, by name and in the order of the mixture.

    Attributes:
      robots: training episodes.
      robots_held_out: held-out episodes of the same datasets.
      web: training questions.
      web_held_out: held-out questions of those that have such a split.
    """

    robots: Mapping[str, Episodes]
    robots_held_out: Mapping[str, Episodes]
    web: Mapping[str, Questions]
    web_held_out: Mapping[str, Questions]

    @property
    def sources(self) -> tuple[Source, ...]:
        """The training sources, robots first; `Batch.source` counts these."""
        return (*self.robots.values(), *self.web.values())

    @property
    def held_out(self) -> Mapping[str, Source]:
        """The held-out sources by name."""
        return {**self.robots_held_out, **self.web_held_out}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the training sources."""
        return tuple(source.name for source in self.sources)


def robots(config: RunConfig) -> dict[str, Robot]:
    """Returns the adapter of every robot dataset of the mixture.

    Raises:
      UserError: an adapter is unknown.
    """
    return {
        name: table.find(robot.adapter or name)
        for name, robot in mixture.resolve(config.mixture).items()
    }


def open_data(
    config: RunConfig, on_progress: OnProgress, left_out: list[str] | None = None
) -> Data:
    """Opens the datasets; generates the tabletop's and builds missing indexes first.

    Args:
      config: the run.
      on_progress: called with a description, what is done and how much there is.
      left_out: is told why a dataset cannot be opened, which is then left out; None: that is an
        error.

    Raises:
      UserError: a dataset is not there, damaged, or not as its adapter says.
    """
    if _is_generated(config):
        with _tolerance(left_out):
            datasets.ensure(config.tabletop, config.data_dir, on_progress)
    in_bytes = indexing.in_megabytes(on_progress)
    # Without a held-out share there is no such part.
    parts: tuple[Part, ...] = ("train", "held_out") if config.loader.held_out else ("train",)
    opened: dict[Part, dict[str, Episodes]] = {"train": {}, "held_out": {}}
    for name, robot in robots(config).items():
        with _tolerance(left_out):
            index = open_index(config, name, robot, _existing(config, "robots", name), in_bytes)
            found = [open_episodes(config, name, robot, index, part) for part in parts]
            for part, episodes in zip(parts, found, strict=True):
                opened[part][name] = episodes
    web, web_held_out = {}, {}
    for name in config.mixture.web:
        with _tolerance(left_out):
            train, held_out = _open_questions(config, name, in_bytes)
            web[name] = train
            if held_out is not None:
                web_held_out[name] = held_out
    return Data(
        robots=opened["train"],
        robots_held_out=opened["held_out"],
        web=web,
        web_held_out=web_held_out,
    )


def _open_questions(
    config: RunConfig, name: str, on_progress: OnProgress
) -> tuple[Questions, Questions | None]:
    """Opens a web source and, where it names one, its held-out split."""
    settings = config.mixture.web[name]
    directory = _existing(config, "web", name)
    common = {
        "directory": directory,
        "cache_dir": config.cache_dir,
        "on_progress": on_progress,
        "on_corrupt": config.loader.on_corrupt,
    }
    blocks = config.loader.blocks if storage.is_remote(directory) else None
    train = open_web(name, settings, blocks=blocks, **common)
    if settings.held_out is None:
        return train, None
    held_out = dataclasses.replace(settings, split=settings.held_out)
    return train, open_web(name, held_out, **common)


@contextlib.contextmanager
def _tolerance(left_out: list[str] | None) -> Iterator[None]:
    """Adds to `left_out`, where there is one, why a dataset cannot be opened."""
    try:
        yield
    except UserError as error:
        if left_out is None:
            raise
        left_out.append(str(error))
    except OSError as error:  # of the place where it would be generated, or indexed
        if left_out is None:
            raise
        left_out.append(f"{error.filename}: {error.strerror}")


def open_together(config: RunConfig) -> Data:
    """Opens the datasets in all processes, so that no two write the same files.

    Raises:
      UserError: as `open_data`; or processes would see different datasets.
    """

    def open_here() -> Data:
        with progress.Phases() as phases:
            return open_data(config, phases)

    data = peers.in_turns(open_here)
    prints = {name: source.fingerprint for name, source in _all_sources(data).items()}
    peers.agree("datasets", prints, "Copy the same files to all hosts")
    return data


def open_index(
    config: RunConfig,
    name: str,
    robot: Robot,
    directory: str,
    on_progress: OnProgress | None = None,
) -> FrameIndex:
    """Opens the index of one robot dataset, for all its parts; makes it first if need be."""
    plans = () if not _wants_plans(config) or robot.plan is None else (robot.plan,)
    return indexing.ensure(
        directory,
        _split(config, name).split,
        indexing.Wanted(
            images=tuple(robot.images.values()),
            arrays=robot.arrays,
            texts=(*robot.instruction, *plans),
        ),
        cache_dir=config.cache_dir,
        on_corrupt=config.loader.on_corrupt,
        on_progress=on_progress,
    )


def open_episodes(
    config: RunConfig, name: str, robot: Robot, index: FrameIndex, part: Part
) -> Episodes:
    """Opens one part of one robot dataset."""
    in_blocks = storage.is_remote(index.directory) and part == "train"
    return Episodes(
        index,
        robot,
        name=name,
        part=part,
        held_out=config.loader.held_out,
        views=config.loader.views,
        chunk=config.loader.chunk,
        history=config.loader.history,
        episodes=_split(config, name).episodes(index.episodes, dataset=name),
        blocks=config.loader.blocks if in_blocks else None,
        plans=_wants_plans(config),
        on_corrupt=config.loader.on_corrupt,
    )


def directory(config: RunConfig, kind: Literal["robots", "web"], name: str) -> str | None:
    """Returns where a dataset of the mixture is, or will be generated; None if it is not found."""
    named = _entries(config, kind)[name].dir
    if named is not None:
        return named
    made = datasets.directories(config.tabletop, config.data_dir)
    generated = {("robots", TABLETOP): made.robot, ("web", QUESTIONS): made.web}
    if (kind, name) in generated:
        return str(generated[kind, name])
    root = epath.Path(config.data_dir).expanduser() / name
    if kind == "web" and config.mixture.web[name].format != "tfds":
        return str(root) if root.is_dir() else None
    versions = [path.parent for path in root.glob("*/features.json")]
    return str(max(versions, key=_version)) if versions else None


def _existing(config: RunConfig, kind: Literal["robots", "web"], name: str) -> str:
    """Returns where a dataset is.

    Raises:
      UserError: it is neither in the directory that is named nor found in `data_dir`.
    """
    found = directory(config, kind, name)
    named = _entries(config, kind)[name].dir
    if named is not None and not storage.is_remote(named) and not pathlib.Path(named).is_dir():
        raise UserError(
            f"config.mixture.{kind}.{name}.dir: {named}",
            expected="a dataset directory",
            found="no such directory",
            fix="Correct it; where the dataset has moved, its run goes on with the new place",
        )
    if found is None:
        place = f"{config.data_dir}/{name}"
        form = config.mixture.web[name].format if kind == "web" else "tfds"
        raise UserError(
            f"dataset {name!r}: not found",
            expected=f"{place}/VERSION, a TFDS version directory, with features.json"
            if form == "tfds"
            else f"the folder {place}, with *{FORMATS[form].suffix}",
            found="none",
            fix=f"Download it there, or name it with --config.mixture.{kind}.{name}.dir=DIR",
        )
    return found


def _entries(
    config: RunConfig, kind: Literal["robots", "web"]
) -> Mapping[str, RobotConfig] | Mapping[str, WebConfig]:
    return mixture.resolve(config.mixture) if kind == "robots" else config.mixture.web


def _all_sources(data: Data) -> dict[str, Source]:
    held_out = {f"{name}, held out": source for name, source in data.held_out.items()}
    return {source.name: source for source in data.sources} | held_out


def _split(config: RunConfig, name: str) -> splits.Part:
    return splits.parse(mixture.resolve(config.mixture)[name].split)


def _wants_plans(config: RunConfig) -> bool:
    return config.prompts.plan == "expert"


def _is_generated(config: RunConfig) -> bool:
    entries = {**mixture.resolve(config.mixture), **config.mixture.web}
    return any(name in entries and entries[name].dir is None for name in (TABLETOP, QUESTIONS))


def _version(path: epath.Path) -> tuple[int, ...]:
    return tuple(int(part) for part in path.name.split(".") if part.isdigit())
