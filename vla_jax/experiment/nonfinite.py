"""What to do where a loss is no number: name the examples, keep the batch, stop or go on."""

import io
import math
import pathlib

import jax
import numpy as np

from vla_jax.core import files
from vla_jax.core.errors import UserError
from vla_jax.data.loader import Loader
from vla_jax.runtime import progress, sharding
from vla_jax.train.loop import LoopConfig
from vla_jax.train.window import Failed

_NAMED = 5  # examples in a message; the file has all


class Nonfinite:
    """Examines batches whose loss or gradient is not finite.

    Batches are a function of their number, so nothing is kept for this while training goes well.

    Args:
      config: stop, or skip and how many.
      loader: makes batches again.
      mesh: the devices of the run.
      directory: where they are written, as STEP.npz.
      count: batches skipped so far, by the run that goes on.
    """

    def __init__(
        self,
        config: LoopConfig,
        loader: Loader,
        mesh: jax.sharding.Mesh,
        directory: pathlib.Path,
        count: int = 0,
    ):
        self._config, self._loader, self._directory = config, loader, directory
        self._mesh = mesh
        self.count = count

    def __call__(self, failed: Failed) -> None:
        """Names the offending examples and writes their batch.

        Raises:
          UserError: the run is to stop, or too many batches were skipped.
        """
        batch, places = self._loader.again(failed.step - 1)
        losses = self._mine(failed.example_loss)
        bad = np.flatnonzero(~np.isfinite(losses))
        path = self._write(failed.step, batch, places, losses)
        what = self._described(failed, [places[row] for row in bad], len(places))
        self.count += 1
        if self._config.on_nonfinite == "stop":
            raise UserError(
                f"{what}; the batch is in {path}",
                fix="Mend or leave out the data, lower config.optimizer.learning_rate, or pass "
                "over such batches with --config.loop.on_nonfinite=skip; the last checkpoint is "
                "from before",
            )
        progress.note(f"skipped the update ({self.count} so far): {what}; the batch is in {path}")
        if self.count > self._config.max_nonfinite:
            raise UserError(
                f"{self.count} batches whose loss or gradient is not finite, the last one at "
                f"step {failed.step}",
                expected=f"at most {self._config.max_nonfinite} (config.loop.max_nonfinite)",
                fix=f"See {self._directory}",
            )

    def _described(self, failed: Failed, bad: list[str], size: int) -> str:
        if math.isfinite(failed.loss):
            return (
                f"training step {failed.step}: the gradient norm is {failed.gradient_norm}, "
                f"while the losses of all {size} examples are finite"
            )
        named = ", ".join(bad[:_NAMED]) + (f" and {len(bad) - _NAMED} more" * (len(bad) > _NAMED))
        where = f"from {named}" if bad else "from examples of other processes"
        return f"training step {failed.step}: the loss is {failed.loss}, {where}"

    def _write(self, step: int, batch: object, places: list[str], losses: np.ndarray) -> str:
        mine = f".process-{jax.process_index()}" if jax.process_count() > 1 else ""
        path = self._directory / f"{step}{mine}.npz"
        arrays = {name: value for name, value in vars(batch).items() if value is not None}
        file = io.BytesIO()
        np.savez_compressed(file, **arrays, example_loss=losses, place=np.array(places))
        files.write_whole(path, file.getvalue())
        return str(path)

    def _mine(self, losses: jax.Array) -> np.ndarray:
        """Returns the rows of this process, wherever the step has left them."""
        spread = jax.jit(lambda x: x, out_shardings=sharding.batch_sharding(self._mesh))(losses)
        # `tensor` neighbours hold the same rows.
        rows = {shard.index[0].start or 0: shard.data for shard in spread.addressable_shards}
        return np.concatenate([np.asarray(rows[start]) for start in sorted(rows)])
