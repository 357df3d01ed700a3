"""What an evaluation leaves behind: tables, results.json, episodes, films, curves, the report."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vla_jax.core import paths
from vla_jax.eval import record, report
from vla_jax.eval.rate import Rate
from vla_jax.experiment import evaluation, page, page_files
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.evaluation import Results
from vla_jax.experiment.sources import Data
from vla_jax.experiment.workdir import RESULTS, Workdir, write_json
from vla_jax.policy.policy import Policy
from vla_jax.runtime import metrics, progress


def finish(
    config: RunConfig,
    workdir: Workdir,
    policies: Mapping[str, Policy],
    data: Data,
    train: Mapping[str, Any],
    left_out: Sequence[str] = (),
) -> Results:
    """Measures the policy and leaves everything a reader wants in the workdir.

    Args:
      config: the run.
      workdir: where results go.
      policies: what to measure, by robot.
      data: the held-out examples.
      train: steps, seconds and samples_per_s of the training, for results.json.
      left_out: what could not be measured and why, for results.json.

    Raises:
      UserError: a file that the report shows is damaged; nothing was measured.
    """
    page_files.read(workdir)
    with progress.Phases() as phases:
        results = evaluation.evaluate(config, policies, data, phases)
    more = {"train": dict(train)} | ({"left_out": list(left_out)} if left_out else {})

    def write_rest(content: Mapping[str, Any]) -> pathlib.Path:
        report.curves(metrics.read(workdir.path), workdir.curves)
        return page.write(workdir, content)

    where = _write(results, workdir.path, more, write_rest)
    _tables(results)
    progress.table("training", tuple(train), [tuple(train.values())])
    progress.note(f"results: {workdir.results}")
    progress.note(f"curves: {workdir.curves}")
    if results.filmed:
        progress.note(f"episodes: {workdir.episodes}")
    progress.note(f"report: {where}")
    return results


def leave(results: Results, folder: str | os.PathLike[str], about: Mapping[str, Any]) -> None:
    """Writes and prints what was measured in one environment.

    Args:
      results: the episodes.
      folder: made if it does not exist; results of the same names are replaced.
      about: the checkpoint, for results.json.
    """
    folder = pathlib.Path(paths.expand(folder))

    def write_rest(content: Mapping[str, Any]) -> pathlib.Path:
        return page.write_evaluation(folder, content)

    where = _write(results, folder, {"evaluated": dict(about)}, write_rest)
    _tables(results)
    progress.note(f"results: {folder / RESULTS}")
    progress.note(f"report: {where}")


def _write(
    results: Results,
    folder: pathlib.Path,
    more: Mapping[str, Any],
    write_rest: Callable[[Mapping[str, Any]], pathlib.Path],
) -> pathlib.Path:
    """Writes what was measured, results.json last: where that is, everything is.

    Returns:
      What `write_rest` returns, which is given the content of results.json.
    """
    content = {**results.to_json(), **more}
    paths = [folder / f"episodes.{suffix}" for suffix in ("gif", "webm")]
    for path in (folder / RESULTS, *paths, folder / record.FILE):
        path.unlink(missing_ok=True)  # of another evaluation
    if results.records:
        record.write(folder / record.FILE, results.records)
    for path in paths:
        report.film([outcome for _, outcome in results.filmed], path)
    where = write_rest(content)
    write_json(folder / RESULTS, content)
    return where


def _row(name: str, rate: Rate, *more: str) -> tuple[str, ...]:
    interval = f"{rate.low:.0%} to {rate.high:.0%}"
    return (name, f"{rate.rate:.1%}", interval, *more, str(rate.episodes))


def _tables(results: Results) -> None:
    rows, first = [], next(iter(results.success), "")
    for name, rate in results.success.items():
        if "/" in name and not name.startswith(f"{first}/"):
            continue  # the report has the tasks of the other splits
        wrong = results.wrong_block.get(name)
        rows.append(_row(name, rate, f"{wrong.rate:.1%}" if wrong else ""))
    if rows:
        header = ("split", "success", "95% interval", "wrong block first", "episodes")
        progress.table("closed loop", header, rows)
    if results.vqa:
        header = ("question", "right", "95% interval", "questions")
        progress.table("held-out questions", header, [_row(k, r) for k, r in results.vqa.items()])
    if results.open_loop:
        rows = [(name, f"{value:.4g}") for name, value in results.open_loop.items()]
        progress.table("held-out demonstrations", ("measure", "value"), rows)
