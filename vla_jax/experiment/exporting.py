"""A run -> a folder for another runtime, handed over only if that computes what JAX computes."""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from vla_jax.core import paths
from vla_jax.core.errors import UserError, nearest
from vla_jax.envs.tabletop import scene
from vla_jax.experiment import adapters, load, sources
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import Workdir
from vla_jax.policy.export import folder, gate, golden
from vla_jax.policy.export.format import Format, Options, Wanted
from vla_jax.policy.observation import Observation
from vla_jax.policy.policy import Policy
from vla_jax.runtime import progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """How the gate was passed.

    Attributes:
      step: updates behind the parameters.
      format: of the folder.
      dtype: of the weights.
      source: what was looked at, `held-out frames` or `random images`.
      frames: number of observations.
      skipped: whether nothing was compared.
      versions: of Python and packages that computed the comparison.
      measured: dtype of the computation -> what was measured, see `policy/selftest.py`.
    """

    step: int
    format: str
    dtype: str
    source: str
    frames: int
    skipped: bool
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    measured: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


def export(
    workdir: Workdir,
    out: str | os.PathLike[str],
    robot: str | None = None,
    *,
    form: str = "torch",
    options: Options | None = None,
    python: str = sys.executable,
    skip_parity: bool = False,
) -> Report:
    """Writes the policy of a run's newest checkpoint and compares it with JAX.

    JAX computes in float32, from the parameters rounded to the dtype of the export, whatever the
    run computed in, so that the other runtime can be held to equal tokens.

    Args:
      workdir: the run.
      out: a new or empty directory.
      robot: the robot dataset whose robot it is for; may be left out where there is one.
      form: name of the format.
      options: dtype and size of the files.
      python: the interpreter in which the folder's own program is tested.
      skip_parity: hands the folder over unchecked.

    Raises:
      UserError: there is no such run, robot or format, the format cannot express the model, `out`
        holds something, or the other runtime is absent or computes something else. In the last
        case `OUT.incomplete` stays behind, marked.
    """
    options = options or Options()
    out = paths.expand(out)
    growing = folder.check_place(out)
    kind = _format(form)
    config = workdir.config()
    _check(workdir, config, kind, robot, options)
    if not skip_parity:
        gate.check_runtime(kind, python)
    step, source, count = _write(workdir, config, kind, robot, options, growing)
    found = {} if skip_parity else _verdict(growing, kind, options.dtype, python)
    report = Report(
        step=step,
        format=form,
        dtype=options.dtype,
        source=source,
        frames=count,
        skipped=skip_parity,
        **found,
    )
    folder.hand_over(growing, out, dataclasses.asdict(report))
    return report


def _write(
    workdir: Workdir,
    config: RunConfig,
    form: Format,
    robot: str | None,
    options: Options,
    growing: pathlib.Path,
) -> tuple[int, str, int]:
    """Writes the folder; returns the step, what is looked at, and how many observations of it."""
    # An accelerator's default precision is lower than float32.
    with jax.default_matmul_precision("highest"):
        run = load.open_run(workdir, _computing(config, "float32", options.dtype))
        policy = run.policy(robot)
        source, observations, instructions = _observations(config, policy)
        progress.note(f"writing {growing}")
        folder.write(growing, form, policy, config.model, options, observations, instructions)
        if options.peft:
            adapters.write(growing / "adapter", run)
    return run.step, source, len(observations)


def _format(name: str) -> Format:
    if name not in folder.FORMATS:
        raise UserError(
            "--format",
            expected=f"one of {', '.join(folder.FORMATS)}",
            found=name,
            fix=nearest(name, list(folder.FORMATS)),
        )
    return folder.FORMATS[name]


def _check(
    workdir: Workdir, config: RunConfig, form: Format, robot: str | None, options: Options
) -> None:
    """Refuses what the format cannot express, before anything large is read."""
    encoder = workdir.load_encoder()
    if encoder is not None:  # else opening the run says what is missing
        name = encoder.robot(robot)
        if (largest := max(encoder.action_token_ids)) >= encoder.tokenizer.size:
            raise UserError(
                f"action tokens of {workdir.path}",
                expected=f"ids below {encoder.tokenizer.size}, as its tokenizer has",
                found=largest,
            )
        if options.peft:
            adapters.check(config, form.name)
        views = [v for v in config.loader.views if v in sources.robots(config)[name].images]
        form.check(
            Wanted(
                config=config.model,
                encoder=encoder,
                robot=name,
                images=len(views) * config.loader.history,
                options=options,
            )
        )


def _computing(config: RunConfig, dtype: Any, param_dtype: Any) -> RunConfig:
    model = dataclasses.replace(config.model, dtype=dtype, param_dtype=param_dtype)
    return dataclasses.replace(config, model=model)


def _verdict(growing: pathlib.Path, form: Format, dtype: str, python: str) -> dict[str, Any]:
    """Runs the folder's own test; returns versions and measurements.

    Raises:
      UserError: something is not as in JAX.
    """
    progress.note(f"running its own selftest, {form.programs[0]}, in {python}")
    try:
        found = gate.measure(growing, form, python)
    except UserError as error:
        folder.mark(growing, str(error))
        raise
    if wrong := gate.failures(found, dtype):
        folder.mark(growing, "; ".join(wrong))
        raise UserError(
            f"exported policy, left in {growing}",
            expected="what JAX computes",
            found="; ".join(wrong),
        )
    return {"versions": found["versions"], "measured": found["measured"]}


def _observations(
    config: RunConfig, policy: Policy
) -> tuple[str, Sequence[Observation], Sequence[str]]:
    """Returns what to compare on: held-out frames if they are on disk, else random images."""
    name, count = policy.robot, golden.PROMPTS
    place = sources.directory(config, "robots", name)
    has_held_out = config.loader.held_out > 0
    # The data may have stayed behind.
    if not has_held_out or place is None or not epath.Path(place).is_dir():
        return "random images", *_random_observations(config, policy)
    adapter = sources.robots(config)[name]
    index = sources.open_index(config, name, adapter, place)
    held_out = sources.open_episodes(config, name, adapter, index, "held_out")
    chosen = [held_out.example(i * len(held_out) // count) for i in range(count)]
    observations = [policy.observer.read(example) for example in chosen]
    return "held-out frames", observations, [example.prefix for example in chosen]


def _random_observations(config: RunConfig, policy: Policy) -> tuple[list[Observation], list[str]]:
    rng, count = np.random.default_rng(config.seed), golden.PROMPTS
    tasks = config.tabletop.demonstrations.tasks
    instructions = [scene.sample(rng, tasks=tasks).instruction for _ in range(count)]
    observer, statistics = policy.observer, policy.encoder.states.get(policy.robot)
    side, out = observer.image_size, []
    for number in range(count):
        steps = observer.history - number % observer.history
        state = None if statistics is None else rng.uniform(statistics.low, statistics.high)
        pictures = rng.integers(0, 256, (len(observer.views), steps, side, side, 3), np.uint8)
        images = {view: list(seen) for view, seen in zip(observer.views, pictures, strict=True)}
        out.append(observer.look(images, state))
    return out, instructions
