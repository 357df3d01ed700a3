"""Compares the numbers of an episode with the statistics in the metadata: of it, and of all.

A parquet file without checksums can be damaged unseen; the mean of an episode shows a changed
number that lies between its smallest and largest, unless it changed by less than float32 rounds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla_jax.core import json_file
from vla_jax.core.errors import UserError
from vla_jax.runtime import progress

_WITHOUT = "ingest with --nocheck_statistics"
_ROUNDING = 1e-6  # of the largest number: how exactly the metadata were written
_PER_STEP = 6e-8  # of it, per step: what adding float32 one by one may lose
_OUTSIDE = 1e-3  # of the range of all episodes: how far outside is worth a note


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


class Overall:
    """What `meta/stats.json` says of all episodes together.

    Differences are noted, not refused: edited datasets often keep the file of what they were, and
    nothing that is written depends on it.

    Args:
      root: the dataset's folder; the file need not be there.
      sizes: numbers at each step, by feature.
      steps: of all episodes.

    Raises:
      UserError: the file is damaged.
    """

    def __init__(self, root: Path, sizes: Mapping[str, int], steps: int):
        self._path = path = root / "meta" / "stats.json"
        self._ranges: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.notes: list[str] = []
        fix = f"Fetch the file again, or {_WITHOUT}"
        kind = dict[str, dict[str, Any]]
        said = json_file.read(path, kind, fix=fix) if path.exists() else {}
        for key in sizes.keys() & said.keys():
            count, low, high = (
                _numbers(said[key].get(name), size, f"{path}: {name} of {key}")
                for name, size in (("count", 1), ("min", sizes[key]), ("max", sizes[key]))
            )
            if low is not None and high is not None:
                self._ranges[key] = low, high
            if count is not None and count[0] != steps and not self.notes:
                self.notes.append(
                    f"{path} is of {count[0]:,.0f} steps, the episodes have {steps:,}: it may be "
                    "of another version of the dataset."
                )

    def compare(self, key: str, values: np.ndarray, place: str) -> None:
        """Notes the first number of a feature that lies outside of what the file says.

        Args:
          key: of the feature.
          values: [t, ...] of one episode.
          place: file and episode.
        """
        if key not in self._ranges or not len(values):
            return
        low, high = self._ranges[key]
        flat = values.reshape(len(values), -1).astype(np.float64)
        slack = _OUTSIDE * np.abs(high - low) + _ROUNDING * np.maximum(np.abs(low), np.abs(high))
        # Not >: a NaN of the file is a difference.
        outside = ~((flat >= low - slack) & (flat <= high + slack)) & np.isfinite(flat)
        if outside.any():
            t, k = map(int, np.argwhere(outside)[0])
            progress.note(
                f"{place} step {t}: {key} dimension {k} is {flat[t, k]:.6g}, outside of "
                f"{low[k]:.6g} to {high[k]:.6g}, which {self._path} says; told once a feature"
            )
            del self._ranges[key]


def _refusal(what: str, name: str, expected: float, found: float) -> UserError:
    return UserError(
        f"{what}: its {name} is not what the metadata say",
        expected=f"{expected:.9g}",
        found=f"{found:.9g}",
        fix=f"The table is damaged, fetch it again; where it was changed on purpose, {_WITHOUT}",
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
            fix=f"Fetch the metadata again, or {_WITHOUT}",
        )
    return values
