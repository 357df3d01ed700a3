"""Trees of arrays on disk, by Orbax: how it is told to write, and what it says of what it wrote."""

import logging
import os
from collections.abc import Callable
from typing import Any, Literal

import jax
import orbax.checkpoint.experimental.v1 as ocp
from absl import logging as absl_logging
from etils import epath

from vla_jax.core import errors, trees
from vla_jax.runtime import checkpoint_tree, peers
from vla_jax.runtime.checkpoint_files import PARAMS

LOADER = "loader"  # where the state of the data loader is, beside the trees
BEST = "best"  # the one metric that Orbax is given
_SMALL = 16 * 2**20  # bytes


def preservation(keep: int, keep_every: int | None, best: Literal["high", "low"] | None) -> Any:
    """Returns which checkpoints stay.

    Args:
      keep: how many of the newest.
      keep_every: all of a step that this divides; None: none on that account.
      best: the one with the highest or the lowest metric; None: none on that account.
    """
    policies = ocp.training.preservation_policies
    stays: list[Any] = [policies.LatestN(keep)]
    if keep_every is not None:
        stays.append(policies.EveryNSteps(keep_every))
    if best is not None:
        stays.append(
            policies.BestN(
                get_metric_fn=lambda metrics: metrics[BEST],
                reverse=best == "low",
                n=1,
                keep_checkpoints_without_metrics=False,
            )
        )
    return policies.AnyPreservationPolicy(stays)


def open_writer(
    directory: epath.Path,
    stays: Any,
    *,
    before_the_others: Callable[[], None],
    before_the_commit: Callable[[], None],
) -> Any:
    """Opens a directory for writing, and removes what a killed process left of its last save.

    Args:
      directory: of the checkpoints.
      stays: as `preservation` returns it.
      before_the_others: is called in every process of several that has written what it has to.
      before_the_commit: is called in the first process, all being written.
    """
    # Orbax copies its options deeply: bound methods would bring copies of their objects along.
    recording = _Recording(post_finalization_callback=before_the_commit)
    recording.before_the_others = before_the_others
    # To cut a small array, so that every replica writes a part, holds the caller up.
    saving = ocp.options.ArrayOptions.Saving(min_slice_bytes_for_replica_parallel=_SMALL)
    return ocp.training.Checkpointer(
        directory,
        preservation_policy=stays,
        cleanup_tmp_directories=True,
        context=ocp.Context(
            async_options=recording, array_options=ocp.options.ArrayOptions(saving=saving)
        ),
    )


class _Recording(ocp.options.AsyncOptions):
    """Options of Orbax, and what a process does between its own writing and that of the others."""

    before_the_others: Callable[[], None]

    def v0(self) -> Any:
        """Returns what Orbax asks for, with a barrier that first records."""
        options = super().v0()
        if peers.count() > 1:
            before = self.before_the_others

            def record_and_meet(*, key: str, timeout_ms: int) -> None:
                if key.startswith("async_write_complete"):
                    before()
                peers.client().wait_at_barrier(key, timeout_ms)

            options.barrier_sync_fn = record_and_meet
        return options


def read(directory: epath.Path, wanted: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads trees of a checkpoint.

    Args:
      directory: of this checkpoint.
      wanted: trees by name, with `jax.ShapeDtypeStruct` leaves.

    Returns:
      The trees, and the state of the data loader.

    Raises:
      UserError: the stored trees are others, or damaged.
    """
    placed = jax.tree_util.tree_map(checkpoint_tree.with_sharding, wanted)
    named = {item: trees.named_leaves(tree) for item, tree in placed.items()}
    loader: Any = None
    for item, leaves in named.items():
        stored = {}
        if (directory / item).exists():
            # Not `checkpointables_metadata`, which opens the arrays of all items.
            metadata = _metadata(directory, item)
            stored, loader = trees.named_leaves(metadata.metadata), metadata.custom_metadata
        prefix = f"{PARAMS}/" if item == PARAMS else ""
        checkpoint_tree.check_fit(f"checkpoint {directory}", prefix, leaves, stored)
    loaded = ocp.load_checkpointables(
        directory, {item: trees.nest(leaves) for item, leaves in named.items() if leaves}
    )
    out = {}
    for item, tree in wanted.items():
        leaves = trees.named_leaves(loaded.get(item, {}))
        structure = jax.tree_util.tree_structure(tree)
        out[item] = jax.tree_util.tree_unflatten(structure, [leaves[name] for name in named[item]])
    return out, dict(loader[LOADER])


def loader_state(directory: epath.Path) -> dict[str, Any]:
    """Reads the state of the data loader, no array.

    Raises:
      UserError: it is damaged.
    """
    return dict(_metadata(directory, PARAMS).custom_metadata[LOADER])


def _metadata(directory: epath.Path, item: str) -> Any:
    """Reads what is said of a tree.

    Raises:
      UserError: it is damaged, in a checkpoint of a version without checksums.
    """
    try:
        return ocp.metadata(directory, checkpointable_name=item)
    except Exception as error:  # of tensorstore, of JSON, of Orbax
        reason = f"{type(error).__name__} {error}"
        raise errors.UserError(
            f"checkpoint {directory}: damaged ({reason[:200]})",
            fix="Remove it, so that the one before it is used, or restore its files",
        ) from error


def silence() -> None:
    """Keeps what Orbax logs for its own developers, also from its threads, out of our output."""
    absl_logging.get_absl_logger().addFilter(_is_for_users)  # Adding it again changes nothing.


def _is_for_users(record: logging.LogRecord) -> bool:
    # Errors included: they are raised as well, when the save is waited for.
    return f"{os.sep}orbax{os.sep}" not in record.pathname
