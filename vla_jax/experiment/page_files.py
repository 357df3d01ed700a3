"""What lies in a workdir for its page: read, checked, and held against each other."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vla_jax.core.errors import listed
from vla_jax.eval import record
from vla_jax.eval.record import Record
from vla_jax.experiment import contradictions, stored
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import RESULTS, Workdir
from vla_jax.runtime import metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation left.

    Attributes:
      folder: where it lies.
      results: the content of results.json; empty without it.
      records: the episodes; empty where none was played.
      where: the folder in the workdir, for titles.
    """

    folder: pathlib.Path
    results: Mapping[str, Any]
    records: Sequence[Record]
    where: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """What the page shows of a workdir, the run's own results apart.

    Attributes:
      config: of the run.
      rows: of metrics.jsonl.
      others: the evaluations that have a folder of their own.
      origin: the content of origin.json; None without it.
      mixture: that of mixture.json; None without it.
    """

    config: RunConfig
    rows: Sequence[Mapping[str, Any]]
    others: Sequence[Evaluation]
    origin: Mapping[str, Any] | None
    mixture: stored.Mixture | None


def read(workdir: Workdir) -> Files:
    """Reads all that the page shows beside the run's own results.

    Raises:
      UserError: there is no run, or a file is damaged.
    """
    parts = (RESULTS, record.FILE)
    folders = sorted({p.parent for p in workdir.evaluation.glob("*/*") if p.name in parts})
    return Files(
        config=workdir.config(),
        rows=metrics.read(workdir.path),
        others=[
            evaluation(
                folder,
                stored.results(folder) or {},
                f" ({folder.relative_to(workdir.path).as_posix()})",
            )
            for folder in folders
        ],
        origin=stored.origin(workdir.origin),
        mixture=stored.mixture(workdir.mixture),
    )


def evaluation(folder: pathlib.Path, results: Mapping[str, Any], where: str = "") -> Evaluation:
    """Reads the episodes beside results.

    Raises:
      UserError: they are damaged.
    """
    file = folder / record.FILE
    was_played = results.get("environment") and file.exists()
    records = record.read(file) if was_played else []
    return Evaluation(folder=folder, results=results, records=records, where=where)


def notes(files: Files, own: Evaluation) -> list[str]:
    """Returns lines about what is missing of the files, and what they contradict each other in.

    Args:
      files: of the workdir.
      own: the run's own evaluation.
    """
    here = {
        "origin.json": files.origin,
        "mixture.json": files.mixture,
        metrics.FILE: files.rows,
        RESULTS: own.results,
    }
    missing = [name for name, content in here.items() if not content]
    lines: list[str | None] = []
    if missing:
        lines.append(f"left out, as there is none of it: {listed(missing)}")
    for each in (own, *files.others):
        if each.records:
            lines.append(contradictions.of_evaluation(each.results, each.records, str(each.folder)))
        elif each.results.get("environment"):
            lines.append(f"{each.folder}: left out, as there is no {record.FILE}")
        elif each is not own:
            lines.append(f"{each.folder}: left out, as there is no {RESULTS}")
    train, every = own.results.get("train"), files.config.loop.log_every
    if train and files.rows:
        lines.append(contradictions.of_metrics(files.rows, train["steps"], every))
    return [line for line in lines if line]
