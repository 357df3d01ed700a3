"""The results of a sweep: a row per run for programs, a row per arm for people."""

import csv
import dataclasses
import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from vla_jax.core import files, json_file
from vla_jax.core.errors import UserError, listed, nearest
from vla_jax.eval.compare import welch
from vla_jax.experiment.workdir import Workdir
from vla_jax.sweep.plan import Run
from vla_jax.sweep.record import Record, State
from vla_jax.sweep.significance import LEVEL, Mean, holm
from vla_jax.sweep.sweep import Needs, Sweep

# Columns of results.csv after the measures.
HOURS, MADE_FROM = "hours", "made_from"
_RERUN = "Evaluate the run again: vla-jax eval WORKDIR"


class _Training(TypedDict):
    seconds: float


class _Finished(TypedDict):
    train: _Training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A finished run.

    Attributes:
      run: which.
      values: by the measure's name; a measure that its results lack is absent.
      hours: of training, as the run itself has counted them.
    """

    run: Run
    values: Mapping[str, float]
    hours: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Everything that the finished runs of a sweep say.

    Attributes:
      sweep: what was asked.
      rows: of the measured runs that are done, in the order of baselines, arms and then seeds.
    """

    sweep: Sweep
    rows: Sequence[Row]

    @property
    def arms(self) -> list[str]:
        """Names of the arms that have a finished run."""
        return list(dict.fromkeys(row.run.arm for row in self.rows))

    def values(self, arm: str, measure: str) -> list[float]:
        """Returns one value per finished seed whose results have the measure."""
        rows = [row for row in self.rows if row.run.arm == arm]
        return [row.values[measure] for row in rows if measure in row.values]

    def mean(self, arm: str, measure: str) -> Mean | None:
        """Returns the mean over the finished seeds; None where no results have the measure."""
        values = self.values(arm, measure)
        return Mean.of(values) if values else None

    def significant(self) -> set[tuple[str, str]]:
        """Returns the (arm, measure) pairs that differ from the reference arm.

        By Welch's t test over seeds, corrected after Holm for every pair of the table.
        """
        reference = self.sweep.reference
        if reference is None or reference not in self.arms:
            return set()
        pairs, p_values = {}, {}
        for arm in self.arms:
            for measure in self.sweep.measures:
                *_, p = welch(self.values(arm, measure), self.values(reference, measure))
                if arm != reference and not math.isnan(p):
                    key = f"{arm} {measure}"
                    pairs[key], p_values[key] = (arm, measure), p
        return {pairs[key] for key in holm(p_values)}


def gather(sweep: Sweep, records: Sequence[Record], known: Sequence[Row] = ()) -> Table:
    """Reads the results of the runs that are done.

    Args:
      sweep: what was asked.
      records: what there is of its runs on disk.
      known: rows of runs whose results are known from elsewhere; they count before those on disk.

    Raises:
      UserError: a measure is not among the results of any run.
    """
    order = [*sweep.baselines, *(arm.name for arm in sweep.arms)]
    elsewhere = {row.run.name for row in known}
    done = [
        each.run
        for each in records
        if each.state is State.DONE and each.run.measured and each.run.name not in elsewhere
    ]
    found = {run.name: _numbers(run) for run in done}
    for paths in sweep.measures.values():
        _check_known(_several(paths), found)
    rows = [*known, *(_row(sweep, run, found[run.name]) for run in done)]
    rows.sort(key=lambda row: (order.index(row.run.arm), row.run.seed))
    return Table(sweep=sweep, rows=rows)


def _row(sweep: Sweep, run: Run, found: Mapping[str, float]) -> Row:
    values = {
        name: _mean_of(_several(paths), found)
        for name, paths in sweep.measures.items()
        if found.keys() >= set(_several(paths))
    }
    return Row(run=run, values=values, hours=found["train/seconds"] / 3600)


def write_csv(table: Table, path: str | os.PathLike[str]) -> None:
    """Writes a row per run: arm, seed, what the arms set, every measure, hours, `Run.made_from`."""
    fields = list(dict.fromkeys(name for row in table.rows for name in row.run.set))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["arm", "seed", *fields, *table.sweep.measures, HOURS, MADE_FROM])
    for row in table.rows:
        settings = [_spell(row.run.set.get(field, "")) for field in fields]
        values = [
            f"{row.values[name]:.6g}" if name in row.values else "" for name in table.sweep.measures
        ]
        end = [f"{row.hours:.3f}", row.run.made_from]
        writer.writerow([row.run.arm, row.run.seed, *settings, *values, *end])
    files.write_whole(path, out.getvalue().encode())


def write_markdown(table: Table, path: str | os.PathLike[str]) -> None:
    """Writes a row per arm: mean, half of the 95% interval over seeds, and a mark."""
    measures = list(table.sweep.measures)
    different = table.significant()
    lines = [
        f"| arm | seeds | {' | '.join(measures)} |",
        f"|---|--:|{'--:|' * len(measures)}",
    ]
    for arm in table.arms:
        cells = [
            _cell(table.mean(arm, measure)) + (" *" if (arm, measure) in different else "")
            for measure in measures
        ]
        seeds = sum(row.run.arm == arm for row in table.rows)
        lines.append(f"| {arm} | {seeds} | {' | '.join(cells)} |")
    files.write_whole(path, "\n".join([*lines, "", _legend(table), ""]).encode())


def _cell(mean: Mean | None) -> str:
    if mean is None:
        return ""
    return f"{mean.value:.3g}" + (f" ± {mean.half:.2g}" if mean.count > 1 else "")


def _legend(table: Table) -> str:
    reference = table.sweep.reference
    legend = "Means over seeds ± half of the 95% interval (Student's t over seeds)."
    if reference is None:
        return legend
    return (
        f"{legend} `*`: differs from {reference} (Welch's t test over seeds, two-sided, "
        f"{LEVEL:.0%} for all comparisons of this table together, after Holm; no test where "
        "the seeds of neither arm differ)."
    )


def _several(paths: str | tuple[str, ...]) -> tuple[str, ...]:
    return (paths,) if isinstance(paths, str) else paths


def _mean_of(paths: tuple[str, ...], numbers: Mapping[str, float]) -> float:
    return sum(numbers[path] for path in paths) / len(paths)


def _numbers(run: Run) -> dict[str, float]:
    path = Workdir(run.workdir).results
    content = json_file.read(path, dict[str, Any], fix=_RERUN)
    json_file.convert(content, _Finished, str(path), fix=_RERUN)
    return dict(_leaves(content, "", str(path)))


def _check_known(paths: tuple[str, ...], found: Mapping[str, Mapping[str, float]]) -> None:
    known = list(dict.fromkeys(name for numbers in found.values() for name in numbers))
    for path in paths:
        if known and path not in known:
            raise UserError(
                f"measure {path}",
                expected=f"one of {listed(known)}",
                found="none of this name in any results.json",
                fix=nearest(path, known),
            )


def _leaves(tree: Mapping[str, Any], prefix: str, what: str) -> list[tuple[str, float]]:
    """Lists numbers by path; a rate with its interval is one number."""
    out: list[tuple[str, float]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and "rate" in value:
            where = f"{what}, field {prefix}{key}/rate"
            out.append((prefix + key, json_file.convert(value["rate"], float, where, fix=_RERUN)))
        elif isinstance(value, Mapping):
            out += _leaves(value, f"{prefix}{key}/", what)
        elif isinstance(value, int | float):
            out.append((prefix + key, float(value)))
    return out


def _spell(value: Any) -> str:
    return value.name if isinstance(value, Needs) else str(value)
