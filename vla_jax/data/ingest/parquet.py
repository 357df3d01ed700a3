"""Rows and columns of parquet files, as numpy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_jax.core import packages
from vla_jax.core.errors import UserError


class Tables:
    """Reads parquet files; keeps the last row groups, which neighbours in a file share."""

    def __init__(self, purpose: str):
        """Imports pyarrow.

        Args:
          purpose: who reads, for the message that it is missing.

        Raises:
          UserError: it is not installed.
        """
        self._pyarrow = packages.load("pyarrow", purpose)
        self._parquet = packages.load("pyarrow.parquet", purpose)
        self._kept: tuple[Path, tuple[int, ...], Any] | None = None

    def whole(self, path: Path, columns: Sequence[str] | None = None) -> Any:
        """Reads a file, or some of its columns, as a table.

        Raises:
          UserError: it is missing or damaged, or lacks a column.
        """
        file = self._open(path)
        missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
        if missing:
            raise UserError(f"{path}: no column {missing[0]}", expected=", ".join(columns or ()))
        return self._read(path, lambda: file.read(columns))

    def rows(self, path: Path, first: int, count: int, place: str) -> Any:
        """Reads rows `first` to `first + count` of a file as a table.

        Raises:
          UserError: the file is missing, damaged, or shorter.
        """
        file = self._open(path)
        sizes = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        if first + count > sum(sizes):
            raise UserError(
                f"{place}: {path.name} is too short",
                expected=f"at least {first + count} rows",
                found=sum(sizes),
                fix="Fetch the file again",
            )
        groups = tuple(
            n for n, size in enumerate(sizes) if ends[n] > first and ends[n] - size < first + count
        )
        if self._kept is None or self._kept[:2] != (path, groups):
            self._kept = (path, groups, self._read(path, lambda: file.read_row_groups(groups)))
        before = int(ends[groups[0]]) - sizes[groups[0]] if groups else 0
        return self._kept[2].slice(first - before, count)

    def numbers(self, table: Any, key: str, shape: tuple[int, ...], place: str) -> np.ndarray:
        """Returns a column of numbers or of (nested) lists of them, [t, *shape]; floats float32.

        Raises:
          UserError: no such column, an empty cell, a list of another length, no numbers.
        """
        if key not in table.column_names:
            raise UserError(f"{place}: no column {key}", expected=", ".join(table.column_names))
        values = self._flat(table.column(key), key, place)
        if values.dtype.kind not in "fiub":
            raise UserError(f"{place}: {key}", expected="numbers", found=values.dtype)
        steps = table.num_rows
        if len(values) != steps * int(np.prod(shape)):
            raise UserError(
                f"{place}: {key}",
                expected=f"{list(shape)} numbers at each of {steps} steps",
                found=f"{len(values)} numbers in all",
            )
        values = values.reshape(steps, *shape)
        with np.errstate(over="ignore"):  # what is too large becomes inf, which the checks name
            return values.astype(np.float32) if values.dtype.kind == "f" else values

    def _flat(self, column: Any, key: str, place: str) -> np.ndarray:
        """Unpacks lists of any depth, [numbers]; a number missing inside a list becomes NaN."""
        types, step, parts = self._pyarrow.types, 0, []
        lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
        for chunk in column.chunks:
            if chunk.null_count:
                step += int(np.argmax(chunk.is_null().to_numpy(zero_copy_only=False)))
                raise UserError(f"{place} step {step}: {key} is empty", fix="Repair the episode")
            step += len(chunk)
            values = chunk
            while hasattr(values, "storage") or any(is_(values.type) for is_ in lists):
                values = values.storage if hasattr(values, "storage") else values.flatten()
            parts.append(values.to_numpy(zero_copy_only=False))
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _open(self, path: Path) -> Any:
        return self._read(path, lambda: self._parquet.ParquetFile(path))

    def _read(self, path: Path, read: Any) -> Any:
        try:
            return read()
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file", fix="Fetch the whole dataset") from error
        except (OSError, ValueError) as error:  # pyarrow's errors are one of the two
            raise UserError(
                f"{path}: pyarrow cannot read it ({error})", fix="Fetch the file again"
            ) from error
