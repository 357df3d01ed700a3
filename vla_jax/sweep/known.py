"""Results that are known without a workdir: rows of results.csv, of any sweep and machine."""

import csv
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from vla_jax.core.errors import UserError
from vla_jax.sweep.plan import Run
from vla_jax.sweep.sweep import Sweep
from vla_jax.sweep.table import HOURS, MADE_FROM, Row


def rows(paths: Sequence[str | os.PathLike[str]], sweep: Sweep, runs: Sequence[Run]) -> list[Row]:
    """Finds the measured runs of a sweep in tables that were written before.

    A run is found by what it was made from (`Run.made_from`), a measure by its name.

    Args:
      paths: results.csv files; of equal runs the first one counts.
      sweep: whose measures a table has to have.
      runs: of the sweep.

    Raises:
      UserError: a file is no results.csv, or lacks a measure of the sweep.
    """
    found: dict[str, Row] = {}
    wanted = {run.made_from: run for run in runs if run.measured}
    for path in map(pathlib.Path, paths):
        for line in _lines(path, (MADE_FROM, HOURS)):
            run = wanted.get(line[MADE_FROM])
            if run is not None and run.name not in found:
                found[run.name] = _row(path, line, run, sweep)
    return list(found.values())


def _lines(path: pathlib.Path, columns: Sequence[str]) -> Iterator[Mapping[str, str]]:
    if not path.is_file():
        raise UserError(f"{path}", expected="a results.csv of a sweep", found="no such file")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"{path}", expected="a results.csv of a sweep", found=f"no column {missing[0]}"
            )
        yield from reader


def _row(path: pathlib.Path, line: Mapping[str, str], run: Run, sweep: Sweep) -> Row:
    missing = [name for name in sweep.measures if name not in line]
    if missing:
        raise UserError(
            f"{path}",
            expected=f"every measure of the sweep, as it has {run.name}",
            found=f"no column {missing[0]}",
            fix="Leave the file out; the run is then made again",
        )
    try:
        values = {name: float(line[name]) for name in sweep.measures if line[name]}
        return Row(run=run, values=values, hours=float(line[HOURS]))
    except ValueError as error:
        raise UserError(f"{path}: the row of {run.name}: {error}") from error
