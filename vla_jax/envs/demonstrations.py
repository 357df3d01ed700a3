"""Demonstrations of an environment's scripted expert, as an RLDS dataset.

Episode n is a function of (options, n): of nothing else, so that the number of processes does not
matter. An episode in which the expert fails is left out and counted.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Protocol, cast

import gymnasium
import numpy as np

from vla_jax.core.episode import Episode as Start
from vla_jax.core.errors import UserError
from vla_jax.data.ingest import rlds
from vla_jax.data.ingest.encoding import Encoder
from vla_jax.data.ingest.episode import Episode, checked
from vla_jax.data.robots import table as robots
from vla_jax.envs import table, workers
from vla_jax.envs.environment import FIRST_SEED, Environment

_PER_CALL = 2  # episodes; each takes seconds
_LEAST_SUCCESS = 0.5  # of the episodes; below, something is wrong with the simulator


class Demonstrator(Protocol):
    """What an environment with an expert has beside gymnasium's methods."""

    def expert_action(self) -> np.ndarray:
        """Returns the expert's command for the present state: robot units, within bounds."""
        ...

    def recorded(self) -> Mapping[str, np.ndarray]:
        """Returns the numbers of the present state that its dataset has, by feature of a step."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemonstrationOptions:
    """What to demonstrate.

    Attributes:
      environment: of `envs/table.py`; it needs an expert.
      tasks: in equal numbers, one after the other; must be of `split`.
      split: whose episodes are shown; their seeds are not those of evaluation.
      episodes: how many, of all tasks together.
      image_size: side of the images in pixels; None: as the environment's cameras have it.
      noise: standard deviation of what is added to each executed command, as a share of half the
        range of its dimension; what is stored is the expert's command.
      seed: of the episodes and of the noise.

    Raises:
      UserError: a number out of its range.
    """

    environment: str
    tasks: tuple[str, ...]
    split: str
    episodes: int
    image_size: int | None = None
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise UserError("demonstrations episodes", expected="1 or more", found=self.episodes)
        if not 0 <= self.noise <= 1:
            raise UserError("demonstrations noise", expected="0..1", found=self.noise)
        if not 0 <= self.seed * self.episodes < FIRST_SEED - self.episodes:
            raise UserError(
                "demonstrations seed",
                expected=f"so that seed x episodes stays below {FIRST_SEED}",
                found=self.seed,
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demonstrated(rlds.Written):
    """What was written, and what was not.

    Attributes:
      failed: episodes per task that the expert did not solve, where there are any.
    """

    failed: Mapping[str, int]


def resolve(
    environment: Environment, tasks: tuple[str, ...], split: str | None
) -> tuple[str, tuple[str, ...]]:
    """Returns the split, by default the first that has all tasks, and its tasks.

    Raises:
      UserError: there is none, or it has no such task.
    """
    if split is None:
        having = [name for name, there in environment.tasks.items() if set(tasks) <= set(there)]
        split = having[0] if having else environment.splits[0]
    return split, environment.tasks_of(split, tasks)


def demonstrate(
    options: DemonstrationOptions,
    directory: Path,
    *,
    workers_count: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, failed: None,
) -> Demonstrated:
    """Plays the expert and writes the dataset of its robot; on failure there is none.

    Args:
      options: what to demonstrate.
      directory: the TFDS version directory; must not exist.
      workers_count: processes; by default one per core.
      on_progress: told after each episode how many are done, and how many of them failed.

    Raises:
      UserError: the environment has no expert or is not installed, the directory exists or cannot
        be written, or the expert fails in more than half of the episodes.
    """
    environment = table.find(options.environment)
    _check_repeats(environment, options)
    edges = [*range(0, options.episodes, _PER_CALL), options.episodes]
    calls = [(options, *span) for span in itertools.pairwise(edges)]
    count = min(workers_count or os.cpu_count() or 1, len(calls))
    failed: collections.Counter[str] = collections.Counter()

    def succeeded() -> Generator[Episode]:
        chunks = workers.map_ordered(episodes, calls, workers=count)
        with contextlib.closing(chunks):
            for done, (task, episode) in enumerate(itertools.chain.from_iterable(chunks), 1):
                failed[task] += episode is None
                on_progress(done, failed.total())
                if episode is not None:
                    yield episode
        _check(failed.total(), options)

    robot = robots.find(environment.robots[0])
    with contextlib.closing(succeeded()) as stream:
        written = rlds.write(
            checked(stream),
            directory,
            name=robot.name,
            description=f"A scripted expert: {json.dumps(dataclasses.asdict(options))};"
            f" {json.dumps(environment.versions())}",
            docs={"action": f"{', '.join(robot.spec.names)}; {', '.join(robot.spec.units)}"},
        )
    return Demonstrated(**vars(written), failed=+failed)


def episodes(
    options: DemonstrationOptions, first: int, last: int
) -> list[tuple[str, Episode | None]]:
    """Plays episodes `first` to `last` (excluded).

    Returns:
      Per episode its task, and what was recorded; None where the expert failed.
    """
    environment = table.find(options.environment)
    env = environment.make(image_size=options.image_size)
    try:
        _check_expert(env, options)
        return [_episode(environment, env, options, number) for number in range(first, last)]
    finally:
        env.close()


def _episode(
    environment: Environment, env: gymnasium.Env, options: DemonstrationOptions, number: int
) -> tuple[str, Episode | None]:
    start = _start(environment, options, number)
    task = start.options["task"]
    rng = np.random.default_rng([start.seed, number])
    observation, _ = env.reset(seed=start.seed, options=dict(start.options))
    expert = cast(Demonstrator, env.unwrapped)
    space = cast(gymnasium.spaces.Box, env.action_space)
    images, rows, instructions = collections.defaultdict(list), [], []
    info, ended, encode = {"success": False}, False, Encoder()
    features = _features(environment)
    while not ended:
        action = expert.expert_action()
        for feature, name in features.items():
            images[feature].append(encode(observation[name]))
        rows.append({"action": action, **expert.recorded()})
        instructions.append(observation["instruction"])
        stray = rng.normal(size=action.shape) * options.noise * (space.high - space.low) / 2
        command = np.clip(action + stray, space.low, space.high).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(command)
        rows[-1]["reward"] = np.float32(reward)
        ended = terminated or truncated
    if not info["success"]:
        return task, None
    return task, Episode(
        place=f"{environment.name} episode {number}",
        file_path=f"{environment.name}/{options.split}/{task}/{start.seed}",
        images=dict(images),
        arrays={name: np.stack([row[name] for row in rows]) for name in rows[0]},
        instructions=instructions,
    )


def _start(environment: Environment, options: DemonstrationOptions, number: int) -> Start:
    """Episode `number`, of which each task has its share, one task after the other."""
    task_number, trial = divmod(number, -(-options.episodes // len(options.tasks)))
    return Start(
        seed=options.seed * options.episodes + number,
        options=environment.options(options.split, options.tasks[task_number], trial),
    )


def _features(environment: Environment) -> dict[str, str]:
    """Maps the image features of the robot's dataset to what the environment calls them."""
    images = robots.find(environment.robots[0]).images
    return {
        images[view].removeprefix("steps/"): name
        for view, name in environment.views.items()
        if view in images
    }


def _check_expert(env: gymnasium.Env, options: DemonstrationOptions) -> None:
    for method in ("expert_action", "recorded"):
        if not hasattr(env.unwrapped, method):
            raise UserError(
                f"environment {options.environment}: it has no expert to record",
                fix="The tabletop's demonstrations are made by training; LIBERO's are files, which"
                " vla-jax ingest --format=libero_hdf5 converts",
            )


def _check_repeats(environment: Environment, options: DemonstrationOptions) -> None:
    """Refuses episodes that are all alike: scenes that are numbered may run out."""
    starts = [_start(environment, options, number).options for number in range(options.episodes)]
    scenes = {json.dumps(each, sort_keys=True) for each in starts}
    if len(options.tasks) < len(scenes) < options.episodes and not options.noise:
        raise UserError(
            f"demonstrations of {options.environment} would repeat themselves",
            expected=f"at most {len(scenes)} episodes",
            found=options.episodes,
            fix="Give --noise, e.g. 0.1, so that the repetitions differ",
        )


def _check(failed: int, options: DemonstrationOptions) -> None:
    if failed > (1 - _LEAST_SUCCESS) * options.episodes:
        raise UserError(
            f"the expert of {options.environment} failed too often",
            expected=f"at most {_LEAST_SUCCESS:.0%} of {options.episodes} episodes",
            found=failed,
            fix="Lower the noise, or leave out the tasks that it cannot do",
        )
