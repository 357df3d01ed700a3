"""A trace of a few steps for XProf or Perfetto, written where TensorBoard finds it."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax

from vla_jax.core.fields import Checked, Count
from vla_jax.runtime import progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfilerConfig(Checked):
    """Which steps are traced, into WORKDIR/profile.

    Attributes:
      first: the first step of the trace; None: no trace. Not the first of a run, which
        compiles.
      steps: how many steps.

    Raises:
      UserError: a value is not positive.
    """

    first: Count | None = None
    steps: Count = 5


class Profiler:
    """Traces the chosen calls of a step function.

    Args:
      function: the step, (state, batch) -> (state, metrics).
      config: which calls.
      directory: where the trace goes.
      done: steps done before the first call.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        config: ProfilerConfig,
        directory: str | os.PathLike[str],
        done: int = 0,
    ):
        self._function, self._directory, self._step = function, os.fspath(directory), done
        first = config.first
        self._traced = range(0) if first is None else range(first, first + config.steps)
        self._running = False

    def __enter__(self) -> "Profiler":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends a trace that the end of the loop cut short."""
        self._stop()

    def __call__(self, *inputs: Any) -> Any:
        """Takes a step, marked with its number in the trace if there is one."""
        self._step += 1
        if self._step not in self._traced:
            return self._function(*inputs)
        if not self._running:
            jax.profiler.start_trace(self._directory)
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=self._step):
            out = self._function(*inputs)
        if self._step == self._traced[-1]:
            jax.block_until_ready(out)
            self._stop()
        return out

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            progress.note(f"trace of steps {self._traced[0]} to {self._step}: {self._directory}")
