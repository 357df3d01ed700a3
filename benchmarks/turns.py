"""Rows of a benchmark, each in processes of its own, by turns; and the tables they become."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vla_jax.runtime import progress


class Table(NamedTuple):
    """A title, the names of the columns, and rows."""

    title: str
    header: Sequence[str]
    rows: list[list[Any]]

    def markdown(self) -> str:
        """Returns it as markdown."""
        rule = ["---" if isinstance(cell, str) else "--:" for cell in self.rows[0]]
        lines = [self.header, rule, *self.rows]
        grid = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
        return f"### {self.title}\n\n{grid}\n"


def show(tables: Sequence[Table]) -> str:
    """Prints tables and returns them as markdown."""
    for table in tables:
        progress.table(*table)
    return "\n".join(table.markdown() for table in tables)


def parser(about: str, rows: Sequence[str], *, times: int) -> argparse.ArgumentParser:
    """Returns the options that benchmarks of models share.

    Args:
      about: what is measured, of which the first line is shown.
      rows: names of the rows.
      times: measured calls per process.
    """
    made = argparse.ArgumentParser(description=about.partition("\n")[0])
    made.add_argument("--only", nargs="+", help=f"parts of the names of: {'; '.join(rows)}")
    made.add_argument("--repeats", type=int, default=3, help="processes per row")
    made.add_argument("--times", type=int, default=times, help="measured calls per process")
    made.add_argument("--limit", type=float, default=900, help="seconds that each may take")
    made.add_argument("--write", type=pathlib.Path, help="markdown file for the results")
    made.add_argument("--child", choices=rows, help=argparse.SUPPRESS)
    made.add_argument("--result", type=pathlib.Path, help=argparse.SUPPRESS)
    return made


def environment(side: str, where: str) -> dict[str, str]:
    """Returns variables of a process that measures JAX (`vla_jax`) or PyTorch somewhere.

    On the `cpu` it has one thread.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    if where == "cpu":
        return threads | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return {"JAX_PLATFORMS": "cuda" if side == "vla_jax" else "cpu"}


def keep_to_one_core() -> None:
    """Holds this process to one core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def run_all(
    rows: Sequence[str],
    command: Callable[[str], Sequence[str]],
    *,
    repeats: int,
    limit: float,
    environment: Callable[[str], Mapping[str, str]] = lambda row: {},
) -> tuple[dict[str, list[Any]], list[float]]:
    """Runs the rows by turns, so that a change of the machine's load meets all of them.

    Args:
      rows: their names.
      command: arguments of Python that measure a row and write JSON to a `--result` file.
      repeats: processes per row.
      limit: seconds that each may take.
      environment: variables of a row's processes, besides those of this one.

    Returns:
      What the processes of each row returned, and the machine's load before each process.
    """
    results: dict[str, list[Any]] = {row: [] for row in rows}
    loads = []
    with progress.Progress("measure", total=len(rows) * repeats) as bar:
        for _ in range(repeats):
            for row in rows:
                loads.append(os.getloadavg()[0])
                result = _run(row, command(row), limit, os.environ | environment(row))
                if result is not None:
                    results[row].append(result)
                bar.update(row=row)
    return results, loads


def _run(row: str, command: Sequence[str], limit: float, variables: Mapping[str, str]) -> Any:
    """Runs a row in a process of its own; None when it fails, whose output is then shown."""
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder, "result.json")
        whole = [sys.executable, *command, "--result", str(result)]
        try:
            done = subprocess.run(
                whole, capture_output=True, text=True, timeout=limit, check=False, env=variables
            )
        except subprocess.TimeoutExpired:
            progress.note(f"{row}: no result in {limit:.0f} s")
            return None
        if done.returncode:
            progress.note(f"{row}: failed\n{done.stderr[-3000:]}")
            return None
        return json.loads(result.read_text())
