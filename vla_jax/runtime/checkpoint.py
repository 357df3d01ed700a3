"""Checkpoints: arrays and loader state of one step, saved in the background, all or nothing.

On disk a checkpoint is `DIRECTORY/STEP` with two Orbax trees, `params` and `training` (everything
else), so that the parameters can be read without the optimizer. Leaves are stored by name in
nested dicts, whatever containers held them. Nothing about the mesh is stored: arrays come back
onto the shardings that the reader asks for. A checkpoint whose files are not as they were
written (`checkpoint_files.py`) is passed over, by name, and the one before it is used.
"""

import dataclasses
import math
import os
from collections.abc import Collection, Mapping
from typing import Any, Literal

from etils import epath

from vla_jax.core import errors, trees
from vla_jax.core.fields import Checked, Count
from vla_jax.runtime import checkpoint_files, checkpoint_store, progress
from vla_jax.runtime.checkpoint_files import ITEMS, PARAMS, TRAINING
from vla_jax.runtime.checkpoint_store import BEST, LOADER
from vla_jax.runtime.disk_errors import errors_of


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
        checkpoint_store.silence()
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

        return checkpoint_store.open_writer(
            self._directory,
            checkpoint_store.preservation(
                keep=config.keep,
                keep_every=config.keep_every,
                best=None if config.best is None else config.best_is,
            ),
            before_the_others=record_part,
            before_the_commit=record,
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
        self._saving, self._custom = step, {LOADER: dict(loader)}
        with errors_of(f"save step {step} in", self._directory):
            # Forced: the default policy drops a save while an earlier one is still under way.
            self._checkpointer.save_checkpointables_async(
                step,
                items,
                force=True,
                metrics=None if best is None or not math.isfinite(best) else {BEST: best},
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
        restored, loader = checkpoint_store.read(self._directory / str(step), wanted)
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
        wanted = {PARAMS: abstract_params}
        restored, _ = checkpoint_store.read(self._directory / str(step), wanted)
        return restored[PARAMS]

    def loader_state(self, step: int | None = None) -> dict[str, Any]:
        """Reads the loader state of a checkpoint, no array.

        Args:
          step: which checkpoint; the newest when None.

        Raises:
          UserError: there is no such checkpoint.
        """
        directory = self._directory / str(self._resolve(step))
        return checkpoint_store.loader_state(directory)

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
