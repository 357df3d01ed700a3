"""What the training loop itself costs: `python benchmarks/loop.py`, see `README.md` beside.

Trains the tabletop for a few hundred steps and tells apart the time from the start of a step until
its end is noticed, the wait for data in it, the time between two steps in which the devices have
nothing to do, and how long saving a checkpoint holds the loop up.
"""

import argparse
import pathlib
import runpy
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from vla_jax.core import config as config_lib
from vla_jax.experiment.config import RunConfig
from vla_jax.runtime import compilation, mesh, progress

_CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "tabletop.py"
_WARM_UP = 100  # steps: compilation, caches, the first save


def main() -> None:
    """Parses the command line, trains and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    home = pathlib.Path("~/.cache/vla_jax/benchmarks").expanduser()
    parser.add_argument("--data", type=pathlib.Path, default=home, help="where the datasets are")
    parser.add_argument("--steps", type=int, default=1000, help="steps that are measured")
    parser.add_argument("--write", type=pathlib.Path, help="markdown file for the results")
    arguments = parser.parse_args()
    config = _config(arguments.data, _WARM_UP + arguments.steps)
    mesh.split_cpu(config.mesh)
    compilation.use_cache()
    rows = _rows(_measure(config))
    progress.table(f"the loop, {arguments.steps} steps", ("measure", "value", "goal"), rows)
    if arguments.write is not None:
        lines = ["| measure | value | goal |", "|---|--:|--:|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        arguments.write.write_text("\n".join([*lines, ""]))


def _config(data: pathlib.Path, steps: int) -> RunConfig:
    values = runpy.run_path(str(_CONFIG))["get_config"]()
    values.data_dir = str(data)
    values.loop.steps, values.loop.eval_every = steps, steps
    values.checkpoint.every = 100
    return config_lib.build(RunConfig, values)


class Times:
    """Seconds, one per call; `began` and `ended` tell the gap between two steps apart."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.waits: list[float] = []
        self.gaps: list[float] = []
        self.saves: list[float] = []
        self._ended: float | None = None
        self._began = 0.0

    def began(self) -> None:
        """A step is given to the devices."""
        self._began = time.perf_counter()
        if self._ended is not None:
            self.gaps.append(self._began - self._ended)

    def ended(self) -> None:
        """Its metrics are there."""
        self._ended = time.perf_counter()
        self.steps.append(self._ended - self._began)

    def shift(self, seconds: float) -> None:
        """Leaves time spent on hooks out of the gap."""
        if self._ended is not None:
            self._ended += seconds


def _measure(config: RunConfig) -> Times:
    """Trains, with a stop-watch around what the loop calls."""
    # Imported late, so that the CPU is split into devices first.
    from vla_jax.experiment import hooks, parts, training
    from vla_jax.experiment.workdir import Workdir
    from vla_jax.runtime.checkpoint import Checkpoints
    from vla_jax.train import loop
    from vla_jax.train.window import Window

    times = Times()
    make_step, add, take = parts.Model.train_step, Window.add, loop.Feed.take

    def train_step(self: parts.Model, measure: Any) -> Any:
        step = make_step(self, measure)

        def call(*inputs: Any) -> Any:
            times.began()
            return step(*inputs)

        call._cache_size = step._cache_size  # pyright: ignore[reportFunctionMemberAccess]
        return call

    def added(self: Window, step: int, metrics: dict[str, Any]) -> None:
        times.ended()
        add(self, step, metrics)

    def taken(self: loop.Feed) -> Any:
        before = self.waited
        batch = take(self)
        times.waits.append(self.waited - before)
        return batch

    def hook(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any) -> Any:
            began = time.perf_counter()
            out = function(*inputs)
            times.shift(time.perf_counter() - began)
            return out

        return call

    parts.Model.train_step, Window.add, loop.Feed.take = train_step, added, taken
    hooks.Hooks.save, hooks.Hooks.look = hook(hooks.Hooks.save), hook(hooks.Hooks.look)
    Checkpoints.save = _timed(Checkpoints.save, times.saves)
    with tempfile.TemporaryDirectory() as directory:
        training.train(config, Workdir(pathlib.Path(directory) / "run"))
    return times


def _timed(function: Callable[..., Any], seconds: list[float]) -> Any:
    def call(*inputs: Any, **named: Any) -> Any:
        began = time.perf_counter()
        out = function(*inputs, **named)
        seconds.append(time.perf_counter() - began)
        return out

    return call


def _rows(times: Times) -> list[tuple[str, str, str]]:
    steps, waits, gaps, saves = (
        1e3 * np.array(values[skipped:])
        for values, skipped in (
            (times.steps, _WARM_UP),
            (times.waits, _WARM_UP),
            (times.gaps, _WARM_UP),
            (times.saves, 1),
        )
    )
    whole = steps.mean() + gaps.mean()
    return [
        ("step, from its start to its end, median", f"{np.median(steps):.2f} ms", ""),
        ("of it waiting for data, mean", f"{waits.mean():.3f} ms", ""),
        ("of it waiting for data, share", f"{waits.mean() / whole:.2%}", "<= 2%"),
        ("between two steps, mean", f"{gaps.mean():.3f} ms", ""),
        ("between two steps, share", f"{gaps.mean() / whole:.2%}", "<= 2%"),
        ("save holds the loop up, median", f"{np.median(saves):.1f} ms", "<= 50 ms"),
        ("save holds the loop up, most", f"{saves.max():.1f} ms", "<= 50 ms"),
    ]


if __name__ == "__main__":
    main()
