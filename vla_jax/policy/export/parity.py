"""The gate at the end of an export: the folder's own program must decode what JAX decodes."""

import importlib.util
import os
import pathlib
import sys
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from vla_jax.core.arrays import Int
from vla_jax.core.errors import UserError
from vla_jax.policy.export.folder import PROGRAM
from vla_jax.policy.observation import Observation


def load_program(folder: str | os.PathLike[str]) -> ModuleType:
    """Imports the `torch_policy.py` that lies in an exported folder, not the one it came from."""
    name = "vla_jax_exported_program"
    spec = importlib.util.spec_from_file_location(name, pathlib.Path(folder) / PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def check(
    folder: str | os.PathLike[str],
    observations: Sequence[Observation],
    instructions: Sequence[str],
    tokens: Int[np.ndarray, "b t"],
) -> None:
    """Decodes the observations in PyTorch, in float32.

    Args:
      folder: an exported policy.
      observations: of the present step.
      instructions: one for each.
      tokens: what JAX decoded.

    Raises:
      UserError: a token differs.
    """
    policy = load_program(folder).TorchPolicy.load(folder)
    found = np.stack(
        [
            policy.act(dict(zip(policy.views, seen.images, strict=True)), instruction).tokens
            for seen, instruction in zip(observations, instructions, strict=True)
        ]
    )
    wrong = np.argwhere(found != tokens)
    if len(wrong):
        frame, position = wrong[0]
        raise UserError(
            f"exported policy: {len(wrong)} of {tokens.size} tokens differ from JAX, the first "
            f"in frame {frame} ({instructions[frame]!r}) at position {position}",
            expected=tokens[frame].tolist(),
            found=found[frame].tolist(),
        )
