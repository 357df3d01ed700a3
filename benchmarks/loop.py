"""What the training loop itself costs: `python benchmarks/loop.py`, see `README.md` beside.

Trains the tabletop for a few hundred steps and tells apart the time of the step on the devices, the
wait for data, the rest of the loop, and how long saving a checkpoint holds the loop up.
"""

import argparse
import dataclasses
import pathlib
import runpy
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vla_jax.core import config as config_lib
from vla_jax.experiment.config import RunConfig
from vla_jax.runtime import compilation, mesh, metrics, progress

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


@dataclasses.dataclass
class Times:
    """Seconds, one per call after the warm-up.

    Attributes:
      steps: of a step on the devices, waited for.
      takes: of taking a batch and placing it.
      saves: that saving held the loop up.
      loop: from the end of the warm-up to the last step, hooks left out.
    """

    steps: list[float]
    takes: list[float]
    saves: list[float]
    loop: float = 0.0


def _measure(config: RunConfig) -> Times:
    """Trains, with a stop-watch around what the loop calls."""
    # Imported late, so that the CPU is split into devices first.
    from vla_jax.experiment import parts, training
    from vla_jax.experiment.workdir import Workdir
    from vla_jax.runtime.checkpoint import Checkpoints
    from vla_jax.train.loop import Feed

    times = Times([], [], [])
    make_step = parts.Model.train_step

    def waiting(step: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *inputs: jax.block_until_ready(step(*inputs))

    def train_step(self: parts.Model, measure: Any) -> Any:
        step = make_step(self, measure)
        timed = _timed(waiting(step), times.steps)
        timed._cache_size = step._cache_size
        return timed

    parts.Model.train_step = train_step
    Feed.take = _timed(Feed.take, times.takes)
    Checkpoints.save = _timed(Checkpoints.save, times.saves)
    with tempfile.TemporaryDirectory() as directory:
        workdir = Workdir(pathlib.Path(directory) / "run")
        training.train(config, workdir)
        seconds = {row["step"]: row["seconds"] for row in metrics.read(workdir.path)}
    times.loop = seconds[config.loop.steps] - seconds[_WARM_UP]
    return times


def _timed(function: Callable[..., Any], seconds: list[float]) -> Any:
    def call(*inputs: Any, **named: Any) -> Any:
        began = time.perf_counter()
        out = function(*inputs, **named)
        seconds.append(time.perf_counter() - began)
        return out

    return call


def _rows(times: Times) -> list[tuple[str, str, str]]:
    steps, takes, saves = (
        np.array(values[skipped:])
        for values, skipped in (
            (times.steps, _WARM_UP),
            (times.takes, _WARM_UP + 1),
            (times.saves, 1),
        )
    )
    rest = times.loop - steps.sum() - takes.sum()
    count = len(steps)
    return [
        ("step on the devices, median", f"{1e3 * np.median(steps):.2f} ms", ""),
        ("batch taken and placed, mean", f"{1e3 * takes.sum() / count:.2f} ms", ""),
        ("rest of the loop, mean", f"{1e3 * rest / count:.3f} ms", ""),
        ("rest of the loop, share of a step", f"{rest / times.loop:.2%}", "<= 2%"),
        ("save holds the loop up, median", f"{1e3 * np.median(saves):.1f} ms", "<= 50 ms"),
        ("save holds the loop up, most", f"{1e3 * saves.max():.1f} ms", "<= 50 ms"),
    ]


if __name__ == "__main__":
    main()
