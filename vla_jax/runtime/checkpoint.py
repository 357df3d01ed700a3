"""Checkpoints: arrays and loader state of one step, saved in the background, all or nothing.

On disk a checkpoint is `DIRECTORY/STEP` with two Orbax trees, `params` and `training` (everything
else), so that the parameters can be read without the optimizer. Leaves are stored by name in
nested dicts, whatever containers held them. Nothing about the mesh is stored: arrays come back
onto the shardings that the reader asks for. A checkpoint whose files have not the bytes that were
written (`checkpoint_files.py`) is passed over, by name, and the one before it is used.
"""

import dataclasses
import logging
import math
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import jax
import orbax.checkpoint.experimental.v1 as ocp
from absl import logging as absl_logging
from etils import epath

from vla_jax.core import errors, trees
from vla_jax.core.fields import Checked, Count
from vla_jax.runtime import checkpoint_files, checkpoint_tree, peers, progress
from vla_jax.runtime.checkpoint_files import ITEMS, PARAMS, TRAINING
from vla_jax.runtime.disk_errors import errors_of

_LOADER = "loader"
_BEST = "best"  # the one metric that Orbax is given
_SMALL = 16 * 2**20  # bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Checked):
    """When checkpoints are written and which stay.

    Attributes:
      every: steps from one checkpoint to the next; the last step is saved as well.
      keep: how many of the newest checkpoints stay on disk.
      keep_every: every checkpoint of a step that this divides stays; None: none on that account.
      best: a metric of the evaluation on the way (`loop.eval_every`), such as `success/seen`. The
        evaluated steps are saved as well then, and the best of them stays; None: none does.
      best_is: whether a high or a low value of that metric is the better one.
    """

    every: Count = 1000
    keep: Count = 2
    keep_every: Count | None = None
    best: str | None = None
    best_is: Literal["high", "low"] = "high"

    def preservation(self) -> Any:
        """Returns which checkpoints stay, for Orbax."""
        policies = ocp.training.preservation_policies
        stays: list[Any] = [policies.LatestN(self.keep)]
        if self.keep_every is not None:
            stays.append(policies.EveryNSteps(self.keep_every))
        if self.best is not None:
            stays.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[_BEST],
                    reverse=self.best_is == "low",
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        return policies.AnyPreservationPolicy(stays)


class Checkpoints:
    """The checkpoints in one directory, used as a context manager that waits for the last save."""

    def __init__(self, directory: str | os.PathLike[str], config: CheckpointConfig | None = None):
        """Opens the directory.

        Args:
          directory: where the checkpoints are; made if a config is given.
          config: which to keep. None opens for reading, which is safe beside a process that
            is writing: only a writer removes the leftovers of a process killed while it saved,
            and renames damaged checkpoints to STEP.damaged.

        Raises:
          UserError: the directory does not exist (for reading) or cannot be made (for writing),
            or there are checkpoints but all are damaged.
        """
        _silence_orbax()
        self._directory = epath.Path(directory).resolve()  # May be gs://.
        self._writes = config is not None
        if config is None and not self._directory.is_dir():
            raise errors.UserError(
                "checkpoints", expected="an existing directory", found=self._directory
            )
        self._saving, self._custom = 0, {}
        self._checkpointer: Any = None
        # Acting needs the parameters alone: a reader compares the bytes of the rest when it reads.
        items = ITEMS if self._writes else (PARAMS,)
        with errors_of("open", self._directory):
            if self._writes:
                self._directory.mkdir(parents=True, exist_ok=True)
            damaged = checkpoint_files.damaged(self._directory, items, all_steps=self._writes)
            if self._writes:
                checkpoint_files.set_aside(self._directory, damaged)
            whole = [
                step for step in checkpoint_files.steps(self._directory) if step not in damaged
            ]
            self._readable = whole  # of a reader; a writer asks Orbax, which removes old ones
            self._compared = {(max(whole), item) for item in items} if whole else set()
            if config is not None:
                self._checkpointer = self._open_writer(config)

    def _open_writer(self, config: CheckpointConfig) -> Any:
        def record() -> None:
            """Is called in the first process, all being written, just before the commit."""
            checkpoint_files.record(self._directory, self._saving, self._custom)

        def record_part() -> None:
            """Is called in every process of several that has written what it has to."""
            checkpoint_files.record_part(self._directory, self._saving)

        # Orbax copies its options deeply: a bound method would bring a copy of all this along.
        recording = _Recording(post_finalization_callback=record)
        recording.before_the_others = record_part
        return ocp.training.Checkpointer(
            self._directory,
            preservation_policy=config.preservation(),
            cleanup_tmp_directories=True,
            context=ocp.Context(async_options=recording, array_options=_written_whole()),
        )

    def __enter__(self) -> "Checkpoints":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits for the save under way."""
        self.close()

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, None when there is none."""
        self._wait()
        return max(self._steps(), default=None)

    def save(
        self,
        step: int,
        arrays: Mapping[str, Any],
        loader: Mapping[str, Any],
        *,
        best: float | None = None,
    ) -> None:
        """Starts writing a checkpoint and returns once the arrays may be changed or donated.

        Args:
          step: the number of updates behind the arrays. A step that is saved already is kept.
          arrays: a dict of pytrees of `jax.Array`, one of them `params`.
          loader: the state of the data loader, as JSON values.
          best: the value of the metric `CheckpointConfig.best` at this step; None or not a number
            where there is none.

        Raises:
          UserError: the disk is full or not writable, now or in the previous save.
          ValueError: `arrays` has no `params`, or the directory was opened for reading.
        """
        if not self._writes:
            raise ValueError(f"{self._directory} was opened for reading")
        if PARAMS not in arrays:
            raise ValueError(f"arrays have no {PARAMS!r}, only {sorted(arrays)}")
        if step in self._steps():
            return
        rest = {name: tree for name, tree in arrays.items() if name != PARAMS}
        items = {PARAMS: trees.nest(trees.named_leaves(arrays[PARAMS]))}
        if nested := trees.nest(trees.named_leaves(rest)):
            items[TRAINING] = nested
        self._wait()  # Orbax would wait as well; `record` must know whose files it sees.
        self._saving, self._custom = step, {_LOADER: dict(loader)}
        with errors_of(f"save step {step} in", self._directory):
            # Forced: the default policy drops a save while an earlier one is still under way.
            self._checkpointer.save_checkpointables_async(
                step,
                items,
                force=True,
                metrics=None if best is None or not math.isfinite(best) else {_BEST: best},
                custom_metadata=self._custom,
            )

    def restore(
        self, abstract: Mapping[str, Any], step: int | None = None
    ) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """Reads a checkpoint.

        Args:
          abstract: the structure of the saved arrays, with `jax.ShapeDtypeStruct` leaves that
            carry the sharding (any mesh) and the dtype to read into. A leaf without a sharding
            comes to the first device.
          step: which checkpoint; the newest when None.

        Returns:
          The step, the arrays in the structure of `abstract`, and the loader state.

        Raises:
          UserError: there is no such checkpoint, or its tree does not fit.
        """
        step = self._resolve(step, ITEMS)
        rest = {name: tree for name, tree in abstract.items() if name != PARAMS}
        wanted = {PARAMS: abstract[PARAMS], TRAINING: rest}
        restored, loader = self._read(step, wanted)
        arrays = {PARAMS: restored[PARAMS], **restored[TRAINING]}
        return step, arrays, loader

    def restore_params(self, abstract_params: Any, step: int | None = None) -> Any:
        """Reads the parameters of a checkpoint and nothing else.

        Args:
          abstract_params: as `abstract["params"]` of `restore`.
          step: which checkpoint; the newest when None.

        Returns:
          The parameters in the structure of `abstract_params`.

        Raises:
          UserError: as `restore`.
        """
        step = self._resolve(step, (PARAMS,))
        return self._read(step, {PARAMS: abstract_params})[0][PARAMS]

    def loader_state(self, step: int | None = None) -> dict[str, Any]:
        """Reads the loader state of a checkpoint, no array.

        Args:
          step: which checkpoint; the newest when None.

        Raises:
          UserError: there is no such checkpoint.
        """
        directory = self._directory / str(self._resolve(step))
        return dict(_metadata(directory, PARAMS).custom_metadata[_LOADER])

    def close(self) -> None:
        """Waits until the save under way is on disk.

        Raises:
          UserError: the disk is full or not writable.
        """
        if self._writes:
            with errors_of("save in", self._directory):
                self._checkpointer.close()

    def _wait(self) -> None:
        if self._writes:
            with errors_of("save in", self._directory):
                self._checkpointer.wait()

    def _steps(self) -> list[int]:
        if not self._writes:
            return self._readable
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def _resolve(self, step: int | None, items: Collection[str] = ()) -> int:
        """Returns which checkpoint is read: that of `step`, or the newest whose bytes are right."""
        self._wait()
        steps = self._steps()
        if not steps or (step is not None and step not in steps):
            raise errors.UserError(
                f"checkpoint in {self._directory}",
                expected="a complete checkpoint" if step is None else f"step {step}",
                found=f"steps {', '.join(map(str, sorted(steps)))}" if steps else "none",
            )
        for chosen in sorted(steps, reverse=True) if step is None else [step]:
            fresh = [item for item in items if (chosen, item) not in self._compared]
            reason = (
                checkpoint_files.damage(self._directory / str(chosen), fresh) if fresh else None
            )
            if reason is None:
                self._compared |= {(chosen, item) for item in items}
                return chosen
            progress.note(f"checkpoint {self._directory / str(chosen)} is damaged: {reason}")
        raise errors.UserError(
            f"checkpoint in {self._directory}",
            expected="a whole one" if step is None else f"step {step}, whole",
            found="only damaged ones" if step is None else "a damaged one",
            fix="Restore its files from a copy",
        )

    def _read(self, step: int, wanted: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reads the trees `wanted` by name, and the loader state."""
        placed = jax.tree_util.tree_map(checkpoint_tree.with_sharding, wanted)
        named = {item: trees.named_leaves(tree) for item, tree in placed.items()}
        directory = self._directory / str(step)
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
            out[item] = jax.tree_util.tree_unflatten(
                structure, [leaves[name] for name in named[item]]
            )
        return out, dict(loader[_LOADER])


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


def _written_whole() -> Any:
    """Lets one replica write an array that is small; to cut it for all holds the caller up."""
    options = ocp.options.ArrayOptions
    return options(saving=options.Saving(min_slice_bytes_for_replica_parallel=_SMALL))


def _silence_orbax() -> None:
    """Keeps what Orbax logs for its own developers, also from its threads, out of our output."""
    absl_logging.get_absl_logger().addFilter(_is_for_users)  # Adding it again changes nothing.


def _is_for_users(record: logging.LogRecord) -> bool:
    # Errors included: they are raised as well, when the save is waited for.
    return f"{os.sep}orbax{os.sep}" not in record.pathname
