"""Opens what can act in an environment: a run's directory, or an exported folder."""

import dataclasses
import importlib
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from vla_jax.actions.spec import ActionSpec
from vla_jax.core import json_file, paths
from vla_jax.core.arrays import Float, Int
from vla_jax.core.errors import UserError
from vla_jax.data.robots import table
from vla_jax.envs.environment import Environment
from vla_jax.eval.closed_loop import Actor
from vla_jax.experiment import load, sources
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import Workdir
from vla_jax.policy import exported_checks, exported_manifest
from vla_jax.policy.export.description import FORMAT_VERSION
from vla_jax.policy.export.format import ALWAYS

if TYPE_CHECKING:  # a program of an export: it imports its neighbours as they lie in a folder
    from vla_jax.policy.exported_policy import ExportedPolicy

_PROGRAMS = {"jax": ("jax_policy", "JaxPolicy")}  # of the other formats: PyTorch
_TORCH = ("torch_policy", "TorchPolicy")


class _Versioned(TypedDict):
    format_version: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A policy that can drive an environment.

    Attributes:
      policy: decides.
      about: where it comes from, as JSON values: `checkpoint`, and `step` or `format`.
      config: of its run; None for an exported folder.
    """

    policy: Actor
    about: Mapping[str, Any]
    config: RunConfig | None = None

    def image_size(self, environment: Environment) -> int | None:
        """Returns the size of the images that the policy was trained on, where the run says it."""
        is_ours = environment.name == sources.TABLETOP and self.config is not None
        return self.config.tabletop.image_size if is_ours and self.config else None


class _OneByOne:
    """An exported policy behind the interface of those that take batches."""

    history: int

    def __init__(self, policy: "ExportedPolicy"):
        self._policy = policy
        self.observer, self.views, self.history = self, policy.views, policy.history

    def look(self, images: Mapping[str, Any], state: Any) -> tuple[dict[str, list], Any]:
        return {view: list(steps) for view, steps in images.items()}, state

    def act_batch(
        self, observations: Sequence[Any], instructions: Sequence[str]
    ) -> tuple[Float[np.ndarray, "b n a"], Int[np.ndarray, "b t"]]:
        actions = [
            self._policy.act(images, instruction, state)
            for (images, state), instruction in zip(observations, instructions, strict=True)
        ]
        return np.stack([a.values for a in actions]), np.stack([a.tokens for a in actions])


def open_actor(
    path: str | os.PathLike[str], environment: Environment, robot: str | None = None
) -> Opened:
    """Opens the policy of a run or of an exported folder that takes an environment's actions.

    Args:
      path: a workdir, or what `vla-jax export` wrote.
      environment: where it is to act.
      robot: which dataset's policy, where several take its actions.

    Raises:
      UserError: it is neither, none of its policies takes such actions, or several do and none is
        named.
    """
    return _exported(path, environment) if is_exported(path) else _run(path, environment, robot)


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Tells whether a directory is an exported folder, damaged or not.

    A run's workdir has a policy.json, too, of another form, and some formats have a config.json.
    """
    folder = pathlib.Path(paths.expand(path))
    return any((folder / name).is_file() for name in ALWAYS)


def _run(path: str | os.PathLike[str], environment: Environment, robot: str | None) -> Opened:
    run = load.open_run(Workdir(path))
    fitting = [
        name
        for name, policy in run.policies.items()
        if _fits(policy.action_tokens.spec, environment) and robot in (None, name)
    ]
    if len(fitting) != 1:
        raise _unfit(f"run {path}", environment, fitting or list(run.policies), robot)
    about = {"checkpoint": str(path), "step": run.step, "robot": fitting[0]}
    return Opened(policy=run.policies[fitting[0]], about=about, config=run.config)


def _exported(path: str | os.PathLike[str], environment: Environment) -> Opened:
    folder = pathlib.Path(paths.expand(path)).absolute()
    description = _description(folder)
    if not _fits(ActionSpec.from_json(description["action_spec"]), environment):
        raise _unfit(f"export {path}", environment, [description["robot"]], None)
    module, name = _PROGRAMS.get(description["format"], _TORCH)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the folder stays as it is
    sys.path.insert(0, str(folder))  # the programs of a folder import each other by name
    try:
        program = getattr(importlib.import_module(module), name)
        policy = program.load(folder, verify=False)  # its programs, too, were verified before
    except (ImportError, ValueError) as error:
        raise UserError(f"export {path}: {error}") from error
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = writes
    about = {name: description[name] for name in ("format", "dtype", "robot")}
    return Opened(policy=_OneByOne(policy), about={"checkpoint": str(path), **about})


def _description(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the policy.json of an exported folder that is as it was written.

    Raises:
      UserError: it is of another version, damaged, or makes no sense; or another file differs from
        the manifest.
    """
    file = folder / "policy.json"
    version = json_file.read(file, _Versioned)["format_version"]
    if version != FORMAT_VERSION:
        raise UserError(
            f"export {folder}",
            expected=f"format {FORMAT_VERSION}",
            found=version,
            fix="Export it anew",
        )
    try:
        exported_manifest.verify(folder)
        description = json_file.read(file, dict[str, Any])
        exported_checks.check(description, str(file))
    except ValueError as error:
        raise UserError(str(error)) from error
    return description


def _fits(spec: ActionSpec, environment: Environment) -> bool:
    return any(spec == table.find(robot).spec for robot in environment.robots)


def _unfit(
    what: str, environment: Environment, found: Sequence[str], robot: str | None
) -> UserError:
    return UserError(
        f"{what} in the environment {environment.name}",
        expected=f"one policy with the actions of {' or '.join(environment.robots)}"
        + (f", of the dataset {robot}" if robot else ""),
        found=f"the policies of {', '.join(found)}",
        fix="Name one with --robot" if len(found) > 1 and not robot else None,
    )
