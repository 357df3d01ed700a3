"""Compares the numbers of an episode with the statistics of it in the metadata.

A parquet file without checksums can be damaged unseen; the mean of an episode shows a changed
number that lies between its smallest and largest, unless it changed by less than float32 rounds.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vla_jax.core.errors import UserError

_ROUNDING = 1e-6  # of the largest number: how exactly the metadata were written
_PER_STEP = 6e-8  # of it, per step: what adding float32 one by one may lose


def check(values: np.ndarray, said: Mapping[str, Any], what: str) -> None:
    """Compares.

    Args:
      values: [t, ...] of one feature.
      said: `min`, `max`, `mean` and `count`, some of them.
      what: feature, file and episode, for messages.

    Raises:
      UserError: they differ, or are not numbers of that shape.
    """
    if not len(values) or not np.isfinite(values).all():
        return  # told by the checks of every episode
    flat = values.reshape(len(values), -1).astype(np.float64)
    largest = np.abs(flat).max(0)
    found = {"min": flat.min(0), "max": flat.max(0), "mean": flat.mean(0)}
    slack = {"min": _ROUNDING, "max": _ROUNDING, "mean": _ROUNDING + _PER_STEP * len(values)}
    count = _numbers(said.get("count"), 1, f"count of {what}")
    if count is not None and count[0] != len(values):
        raise _refusal(what, "count", count[0], len(values))
    for name, mine in found.items():
        theirs = _numbers(said.get(name), len(mine), f"{name} of {what}")
        # Not >: a NaN is a difference.
        if theirs is None or (np.abs(theirs - mine) <= slack[name] * largest).all():
            continue
        k = int(np.argmax(~(np.abs(theirs - mine) <= slack[name] * largest)))
        raise _refusal(f"{what} dimension {k}", name, theirs[k], mine[k])


def _refusal(what: str, name: str, expected: float, found: float) -> UserError:
    return UserError(
        f"{what}: its {name} is not what the metadata say",
        expected=f"{expected:.9g}",
        found=f"{found:.9g}",
        fix="The table is damaged, fetch it again; where it was changed on purpose, "
        "ingest with --nocheck_statistics",
    )


def _numbers(said: Any, size: int, what: str) -> np.ndarray | None:
    if said is None:
        return None
    try:
        values = np.asarray(said, np.float64).reshape(-1)
    except (TypeError, ValueError):
        values = None
    if values is None or len(values) != size:
        raise UserError(
            f"{what} in the metadata",
            expected=f"{size} numbers",
            found=str(said)[:80],
            fix="Fetch the metadata again, or ingest with --nocheck_statistics",
        )
    return values
