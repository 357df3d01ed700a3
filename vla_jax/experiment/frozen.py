"""The parameters that a run does not train: written once, not with every checkpoint."""

import pathlib
from typing import Any

import jax

from vla_jax.runtime.checkpoint import CheckpointConfig, Checkpoints

_STEP = 0


def save(directory: pathlib.Path, frozen: Any) -> None:
    """Writes them, if there are any, and returns when they are on disk.

    Args:
      directory: of the run's frozen parameters.
      frozen: `TrainState.frozen`.

    Raises:
      UserError: the disk is full or not writable.
    """
    if jax.tree.leaves(frozen):
        with Checkpoints(directory, CheckpointConfig()) as checkpoints:
            checkpoints.save(_STEP, {"params": frozen}, {})


def restore(directory: pathlib.Path, abstract: Any) -> Any:
    """Reads them.

    Args:
      directory: as in `save`.
      abstract: shapes, dtypes and shardings.

    Raises:
      UserError: they are not there, or of another model.
    """
    if not jax.tree.leaves(abstract):
        return abstract
    with Checkpoints(directory) as checkpoints:
        return checkpoints.restore_params(abstract)
