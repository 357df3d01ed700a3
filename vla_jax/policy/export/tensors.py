"""Our parameters -> tensors of other names and layouts, by the key tables of the import."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vla_jax.models.pretrained.table import Entry
from vla_jax.policy.export.weights import Tensor


def packed(
    entries: Iterable[Entry], leaves: Mapping[str, Any], rows: Mapping[str, int]
) -> list[Tensor]:
    """Returns the tensors of a table.

    Args:
      entries: the table, spelled out.
      leaves: our parameters by name; only the part that a tensor holds is brought to the host.
      rows: parameter -> length to which its first axis is padded.
    """
    out = []
    for entry in entries:
        length = rows.get(entry.places[0].leaf, entry.shape[0])
        out.append(
            Tensor(
                name=entry.name,
                shape=(length, *entry.shape[1:]),
                read=lambda entry=entry, length=length: _padded(_read(entry, leaves), length),
            )
        )
    return out


def _read(entry: Entry, leaves: Mapping[str, Any]) -> np.ndarray:
    parts = [
        np.asarray(leaves[p.leaf] if p.index is None else leaves[p.leaf][p.index])
        for p in entry.places
    ]
    return np.asarray(entry.pack(parts))


def _padded(value: np.ndarray, length: int) -> np.ndarray:
    """Adds rows at the mean of the others: none of them is ever the likeliest."""
    if len(value) == length:
        return value
    mean = value.mean(axis=0, dtype=np.float32, keepdims=True).astype(value.dtype)
    return np.concatenate([value, np.repeat(mean, length - len(value), axis=0)])
