"""A run -> a folder for PyTorch, handed over only if PyTorch decodes the same tokens."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath

from vla_jax.envs.tabletop import scene
from vla_jax.experiment import load, sources
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import Workdir
from vla_jax.policy.export import folder
from vla_jax.policy.observation import Observation
from vla_jax.policy.policy import Policy

GATE_FRAMES, _GOLDEN_FRAMES = 64, 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """How the gate was passed.

    Attributes:
      step: updates behind the parameters.
      source: what was looked at, `held-out frames` or `random images`.
      frames: number of observations.
      tokens: number of tokens compared, all of them equal; 0 without PyTorch.
    """

    step: int
    source: str
    frames: int
    tokens: int


def export(workdir: Workdir, out: str | os.PathLike[str], robot: str | None = None) -> Report:
    """Writes the policy of a run's newest checkpoint and compares it with JAX.

    Both compute in float32, whatever the run computed in, so that tokens can be compared exactly.
    Nothing is left in `out` if anything goes wrong.

    Args:
      workdir: the run.
      out: a new or empty directory.
      robot: the robot dataset whose robot it is for; may be left out where there is one.

    Raises:
      UserError: there is no such run or robot, `out` holds something, or a token differs.
    """
    folder.check_empty(out)
    config = workdir.config()
    model = dataclasses.replace(config.model, dtype="float32")
    # An accelerator's default precision is lower than float32.
    with jax.default_matmul_precision("highest"):
        run = load.open_run(workdir, dataclasses.replace(config, model=model))
        policy = run.policy(robot)
        source, observations, instructions = _observations(config, policy)
        try:
            some = slice(_GOLDEN_FRAMES)
            folder.write(out, policy, config.model, observations[some], instructions[some])
            tokens = _gate(out, policy, observations, instructions)
            report = Report(step=run.step, source=source, frames=len(observations), tokens=tokens)
            text = json.dumps(dataclasses.asdict(report), indent=2)
            (pathlib.Path(out) / "parity.json").write_text(text + "\n")
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            raise
    return report


def _gate(
    out: str | os.PathLike[str],
    policy: Policy,
    observations: Sequence[Observation],
    instructions: Sequence[str],
) -> int:
    """Returns how many tokens were compared."""
    if importlib.util.find_spec("torch") is None:
        return 0
    from vla_jax.policy.export import parity  # noqa: PLC0415  (torch is optional)

    _, tokens = policy.act_batch(observations, instructions)
    parity.check(out, observations, instructions, tokens)
    return tokens.size


def _observations(config: RunConfig, policy: Policy) -> tuple[str, list[Observation], list[str]]:
    """Returns what to compare on: held-out frames if they are on disk, else random images."""
    name = policy.robot
    place = sources.directory(config, "robots", name)
    has_held_out = config.loader.held_out > 0
    # The data may have stayed behind.
    if not has_held_out or place is None or not epath.Path(place).is_dir():
        return "random images", *_random_observations(config, policy)
    adapter = sources.robots(config)[name]
    index = sources.open_index(config, name, adapter, place)
    held_out = sources.open_episodes(config, name, adapter, index, "held_out")
    chosen = [held_out.example(i * len(held_out) // GATE_FRAMES) for i in range(GATE_FRAMES)]
    observations = [policy.observer.read(example) for example in chosen]
    return "held-out frames", observations, [example.prefix for example in chosen]


def _random_observations(config: RunConfig, policy: Policy) -> tuple[list[Observation], list[str]]:
    rng = np.random.default_rng(config.seed)
    tasks = config.tabletop.demonstrations.tasks
    instructions = [scene.sample(rng, tasks=tasks).instruction for _ in range(GATE_FRAMES)]
    observer = policy.observer
    shape = (len(observer.views), observer.image_size, observer.image_size, 3)
    pictures = rng.integers(0, 256, (GATE_FRAMES, *shape), np.uint8)
    views = [dict(zip(observer.views, seen, strict=True)) for seen in pictures]
    return [observer.look(images) for images in views], instructions
