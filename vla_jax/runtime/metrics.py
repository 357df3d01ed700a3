"""Metrics: one JSON object per line for programs, TensorBoard event files for people, W&B if asked.

`metrics.jsonl` after a kill and a resume holds the same lines as after an uninterrupted run, but
for what is measured of time and machine: `seconds`, `speed/...`, `memory/...`.
"""

import dataclasses
import json
import os
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any, SupportsFloat

import tensorboardX

from vla_jax.core import errors, files, json_file, paths

FILES = FILE, _EVENTS, _WANDB_ID = "metrics.jsonl", "events", "wandb_id"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """Where metrics go beside `metrics.jsonl` and TensorBoard's event files.

    Attributes:
      wandb: a project of Weights & Biases, or ENTITY/PROJECT; None: not there. Its other settings
        are environment variables of its own, such as WANDB_MODE=offline.
    """

    wandb: str | None = None


class MetricWriter:
    """Appends metrics to a run directory, used as a context manager."""

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        start_step: int = 0,
        config: MetricsConfig | None = None,
        about: Mapping[str, Any] | None = None,
    ):
        """Opens the files of a run.

        Args:
          workdir: the directory of the run, made if it does not exist.
          start_step: the step from which the run goes on; what was written for later steps,
            by a run killed after its last checkpoint, is dropped.
          config: where else they go.
          about: the configuration of the run, for W&B to show.

        Raises:
          UserError: a line of the existing file is not JSON, or W&B is wanted and not installed.
        """
        self._path = pathlib.Path(paths.expand(workdir)) / FILE
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _drop_after(self._path, start_step)
        self._wandb = None
        if config is not None and config.wandb is not None:
            self._wandb = _wandb_run(config.wandb, self._path.parent, about or {})
        self._file = self._path.open("a", encoding="utf-8")
        # TensorBoard forgets the later steps as well.
        purge = start_step + 1 if start_step else None
        self._events = tensorboardX.SummaryWriter(
            str(self._path.parent / _EVENTS), purge_step=purge
        )

    def __enter__(self) -> "MetricWriter":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes the files."""
        self.close()

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Writes the metrics of one step, on disk when it returns.

        Args:
          step: the number of updates so far.
          values: scalars by name; `train/loss` groups names in TensorBoard.
        """
        scalars = {name: float(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": int(step), **scalars}) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._events.add_scalar(name, value, int(step))
        if self._wandb is not None:
            self._wandb.log({"step": int(step), **scalars})

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._events.close()
        if self._wandb is not None:
            self._wandb.finish()


class NoWriter(MetricWriter):
    """Writes nothing, for the processes that are not the first."""

    def __init__(self):
        """Opens nothing."""

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Drops the metrics of one step."""

    def close(self) -> None:
        """Has nothing to close."""


def read(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the metrics of a run.

    Args:
      workdir: the directory of the run.

    Returns:
      One dict per line, with `step` and the scalars, in the order written; empty when the run
      has none. A last line cut short by a kill is left out.

    Raises:
      UserError: it cannot be read, or another line is no JSON object of numbers with a step.
    """
    path = pathlib.Path(paths.expand(workdir)) / FILE
    return _rows(path) if path.exists() else []


def _wandb_run(project: str, workdir: pathlib.Path, about: Mapping[str, Any]) -> Any:
    """Opens the run's page at W&B, the same after a resumption."""
    try:
        import wandb  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise errors.UserError(
            f"config.metrics.wandb={project}: {error}",
            fix="Install it with: pip install wandb, or set config.metrics.wandb=None",
        ) from error
    path = workdir / _WANDB_ID
    if not path.exists():
        files.write_whole(path, secrets.token_hex(8).encode())
    entity, _, name = project.rpartition("/")
    run = wandb.init(
        project=name,
        entity=entity or None,
        id=path.read_text(),
        resume="allow",
        name=workdir.resolve().name,
        dir=workdir,
        config=dict(about),
    )
    # Not its own counter, which cannot go back to the last checkpoint.
    run.define_metric("*", step_metric="step")
    return run


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise errors.UserError(f"{path}: {error.strerror}", fix="Move it away") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_row(line, f"{path}, line {number}"))
        except errors.UserError:
            if number < len(lines):  # the last line that was written ends with a newline
                raise
    return rows


def _row(line: bytes, what: str) -> dict[str, Any]:
    fix = "Remove the line"
    row = json_file.decode(line, dict[str, int | float], what, fix=fix)
    step = row.get("step")
    if not isinstance(step, int) or step < 0:
        raise errors.UserError(f"{what}, field step", expected="an integer", found=step, fix=fix)
    return row


def _drop_after(path: pathlib.Path, step: int) -> None:
    if not path.exists():
        return
    kept = "".join(json.dumps(row) + "\n" for row in _rows(path) if row["step"] <= step)
    # Replaced in one move: a kill here must not cost the metrics so far.
    aside = path.with_suffix(".tmp")
    aside.write_text(kept, encoding="utf-8")
    aside.replace(path)
