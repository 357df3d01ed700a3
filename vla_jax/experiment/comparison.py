"""Results of runs, read and compared: who is better on the same fixed episodes?"""

import pathlib
from collections.abc import Sequence
from typing import Any

from vla_jax.core import config as config_lib
from vla_jax.core import paths
from vla_jax.core.errors import UserError
from vla_jax.eval import compare, record
from vla_jax.eval.compare import Difference
from vla_jax.eval.record import Record
from vla_jax.experiment import contradictions, stored
from vla_jax.experiment.workdir import RESULTS
from vla_jax.runtime import progress


def compare_runs(
    first: Sequence[str], second: Sequence[str], env: str | None = None
) -> list[Difference]:
    """Compares evaluations, per split and over all.

    Args:
      first: those of A: workdirs, folders that `vla-jax eval --out` wrote, or files in them.
      second: those of B.
      env: an environment of which workdirs have an evaluation of its own; their own by default.

    Raises:
      UserError: one is missing, they were taken in different environments or on other episodes.
    """
    read = {path: _read(path, env) for path in (*first, *second)}
    (name, (reference, _)), *others = read.items()
    for other, (environment, _) in others:
        changes = config_lib.differences(reference, environment, "environment")
        changes = [change for change in changes if not change.startswith("environment.digest")]
        if changes:
            raise UserError(
                f"{name} and {other} were evaluated in different environments: "
                + "; ".join(changes),
                fix="Evaluate both anew in one of them",
            )
    sides = [{path: read[path][1] for path in side} for side in (first, second)]
    return compare.compare(*sides)


def to_json(
    first: Sequence[str], second: Sequence[str], differences: Sequence[Difference]
) -> dict[str, Any]:
    """Returns what was compared, and the table, as JSON values."""
    test = "exact McNemar" if len(first) == len(second) == 1 else "Welch, a run is the unit"
    return {
        "A": list(first),
        "B": list(second),
        "test": test,
        "splits": [difference.to_json() for difference in differences],
    }


def _read(path: str, env: str | None) -> tuple[dict[str, Any], list[Record]]:
    """Returns the environment and the episodes of an evaluation."""
    folder = pathlib.Path(paths.expand(path))
    folder = folder.parent if folder.is_file() else folder
    if env is not None and (folder / "evaluation" / env).is_dir():
        folder = folder / "evaluation" / env
    records = record.read(folder / record.FILE)
    results = stored.results(folder) or {}
    environment = results.get("environment")
    if environment is None:
        raise UserError(
            f"{folder / RESULTS}",
            expected="the environment of the episodes beside it",
            found="none",
            fix="Evaluate again with this version: vla-jax eval",
        )
    if line := contradictions.of_evaluation(results, records, str(folder)):
        progress.note(line)
    return environment, records
