"""After training: evaluate, print the tables, write results.json, the curves and the episodes."""

from collections.abc import Mapping
from typing import Any

from vla_jax.eval import report
from vla_jax.eval.rate import Rate
from vla_jax.experiment import evaluation
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.sources import Data
from vla_jax.experiment.workdir import Workdir, write_json
from vla_jax.policy.policy import Policy
from vla_jax.runtime import metrics, progress


def finish(
    config: RunConfig,
    workdir: Workdir,
    policies: Mapping[str, Policy],
    data: Data,
    train: Mapping[str, Any],
) -> evaluation.Results:
    """Measures the policy and leaves everything a reader wants in the workdir.

    Args:
      config: the run.
      workdir: where results go.
      policies: what to measure, by robot.
      data: the held-out examples.
      train: steps, seconds and samples_per_s of the training, for results.json.
    """
    with progress.Phases() as phases:
        results = evaluation.evaluate(config, policies, data, phases)
    write_json(workdir.results, results.to_json() | {"train": dict(train)})
    report.curves(metrics.read(workdir.path), workdir.curves)
    if results.outcomes:
        report.film(results.outcomes, workdir.episodes)
    _tables(results, dict(train))
    progress.note(f"results: {workdir.results}")
    progress.note(f"curves: {workdir.curves}")
    if results.outcomes:
        progress.note(f"episodes: {workdir.episodes}")
    return results


def _row(name: str, rate: Rate, *more: str) -> tuple[str, ...]:
    interval = f"{rate.low:.0%} to {rate.high:.0%}"
    return (name, f"{rate.rate:.1%}", interval, *more, str(rate.episodes))


def _tables(results: evaluation.Results, train: dict[str, Any]) -> None:
    rows = []
    for name, rate in results.success.items():
        wrong = results.wrong_block.get(name)
        rows.append(_row(name, rate, f"{wrong.rate:.1%}" if wrong else ""))
    header = ("split", "success", "95% interval", "wrong block first", "episodes")
    progress.table("closed loop", header, rows)
    header = ("question", "right", "95% interval", "questions")
    progress.table("held-out questions", header, [_row(k, r) for k, r in results.vqa.items()])
    rows = [(name, f"{value:.4g}") for name, value in results.open_loop.items()]
    progress.table("held-out demonstrations", ("measure", "value"), rows)
    progress.table("training", tuple(train), [tuple(train.values())])
