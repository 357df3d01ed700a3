"""Rows and columns of parquet files, as numpy: the one reader of parquet.

What a file says about itself is compared with what is read: checksums of pages where the writer
wrote them (few do), and the smallest and largest value and the number of empty cells of every
column of every row group. Without checksums a number that changes inside these bounds is not
noticed here.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vla_jax.core import packages
from vla_jax.core.errors import UserError, listed, nearest
from vla_jax.data.ingest import parquet_statistics
from vla_jax.data.ingest.refusal import AGAIN, refusing

Kind = Literal["integers", "numbers", "texts", "lists of numbers", "lists of texts"]


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

    def columns(self, path: Path, kinds: Mapping[str, Kind]) -> dict[str, list[Any]]:
        """Reads some columns of a file as plain values.

        Args:
          path: the file.
          kinds: column -> what it has to hold, without empty cells.

        Raises:
          UserError: the file is missing or damaged, lacks a column, or one holds something else.
        """
        with self._open(path) as file:
            for name, kind in kinds.items():
                self._check_column(file.schema_arrow, path, name, kind)
            groups = range(file.metadata.num_row_groups)
            table = self._read(file, path, groups, list(kinds))
            found = {name: table.column(name) for name in kinds}
            values = {name: column.to_pylist() for name, column in found.items()}
        for name, column in found.items():
            if column.null_count:
                row = values[name].index(None)
                raise UserError(f"{path}: column {name}, row {row}: empty", fix=AGAIN)
        return values

    def names(self, path: Path) -> dict[str, str]:
        """Returns the columns of a file and their types as pyarrow spells them.

        Raises:
          UserError: it is missing or damaged.
        """
        with self._open(path) as file:
            return {field.name: str(field.type) for field in file.schema_arrow}

    def rows(self, path: Path, first: int, count: int, total: int, place: str) -> Any:
        """Reads rows `first` to `first + count` of a file as a table.

        Args:
          path: the file.
          first: the first row.
          count: how many.
          total: how many the file has to have in all.
          place: who asks, for messages.

        Raises:
          UserError: the file is missing or damaged, or has more or fewer rows.
        """
        with self._open(path) as file:
            metadata = file.metadata
            sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
            if sum(sizes) != total:
                raise UserError(
                    f"{place}: {path.name} is too {'short' if sum(sizes) < total else 'long'}",
                    expected=f"{total} rows, as the lengths of its episodes add up to",
                    found=sum(sizes),
                    fix=AGAIN,
                )
            ends = np.cumsum(sizes)
            wanted = (ends > first) & (ends - sizes < first + count)
            groups = tuple(map(int, np.flatnonzero(wanted)))
            if self._kept is None or self._kept[:2] != (path, groups):
                self._kept = (path, groups, self._read(file, path, groups, None))
        before = int(ends[groups[0]]) - sizes[groups[0]] if groups else 0
        return self._kept[2].slice(first - before, count)

    def column(self, table: Any, key: str, place: str) -> Any:
        """Returns a column of a table, without empty cells.

        Raises:
          UserError: no such column, or an empty cell.
        """
        if key not in table.column_names:
            raise UserError(
                f"{place}: no column {key}",
                expected=f"one of {listed(table.column_names)}",
                fix=nearest(key, table.column_names) or "Fetch the dataset again",
            )
        column = table.column(key)
        if column.null_count:
            step = int(np.argmax(column.is_null().to_numpy()))
            raise UserError(f"{place} step {step}: {key} is empty", fix="Repair the episode")
        return column

    def numbers(
        self, table: Any, key: str, shape: tuple[int, ...], place: str, dtype: str | None = None
    ) -> np.ndarray:
        """Returns a column of numbers or of (nested) lists of them, [t, *shape]; floats float32.

        Args:
          table: from `rows`.
          key: the column.
          shape: of one cell.
          place: file and episode, for messages.
          dtype: what the dataset declares; numbers of another kind are refused.

        Raises:
          UserError: no such column, an empty cell, a list of another length, no numbers, or
            fractions where whole numbers are declared or the other way round.
        """
        column = self.column(table, key, place)
        values = self._flat(column, key, shape, place)
        declared = np.dtype(dtype).kind if dtype else values.dtype.kind
        if values.dtype.kind not in "fiub" or _kind(declared) != _kind(values.dtype.kind):
            raise UserError(
                f"{place}: {key}", expected=dtype or "numbers", found=column.type, fix=AGAIN
            )
        values = values.reshape(table.num_rows, *shape)
        with np.errstate(over="ignore"):  # what is too large becomes inf, which the checks name
            return values.astype(np.float32) if values.dtype.kind == "f" else values

    def _flat(self, column: Any, key: str, shape: tuple[int, ...], place: str) -> np.ndarray:
        """Unpacks lists of any depth, [numbers]; a number missing inside a list becomes NaN."""
        size, step, parts = int(np.prod(shape)), 0, []
        for chunk in column.chunks:
            values, found = chunk, []
            while self._is_list(values):
                values = values.storage if hasattr(values, "storage") else values
                lengths = set(values.value_lengths().to_pylist())
                found.append(lengths)
                values = values.flatten()
            one = all(len(lengths) == 1 for lengths in found)
            if len(chunk) and (not one or len(values) != size * len(chunk)):
                raise UserError(
                    f"{place} steps {step} to {step + len(chunk) - 1}: {key}",
                    expected=f"{list(shape)} numbers at each step",
                    found="lists of " + " of ".join(listed(sorted(map(str, f))) for f in found)
                    if found
                    else "one",
                )
            step += len(chunk)
            parts.append(values.to_numpy(zero_copy_only=False))
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _is_list(self, values: Any) -> bool:
        types = self._pyarrow.types
        kind = getattr(values, "storage", values).type
        lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
        return any(is_(kind) for is_ in lists)

    def _check_column(self, schema: Any, path: Path, name: str, kind: Kind) -> None:
        names = schema.names
        if name not in names:
            raise UserError(
                f"{path}: no column {name}",
                expected=f"a column of {kind}",
                found=listed(names) or "no columns",
                fix=nearest(name, names) or "Fetch the dataset again",
            )
        found, types = schema.field(name).type, self._pyarrow.types
        inner, wanted = found, kind
        if kind.startswith("lists of "):
            inner = found.value_type if hasattr(found, "value_type") else None
            wanted = kind.removeprefix("lists of ")
        is_kind = {
            "integers": types.is_integer,
            "numbers": lambda t: types.is_integer(t) or types.is_floating(t),
            "texts": lambda t: types.is_string(t) or types.is_large_string(t),
        }[wanted]
        if inner is None or not is_kind(inner):
            raise UserError(f"{path}: column {name}", expected=kind, found=found, fix=AGAIN)

    @contextlib.contextmanager
    def _open(self, path: Path) -> Iterator[Any]:
        with _refusing(path):
            try:
                # Pages without a checksum are read as they are.
                file = self._parquet.ParquetFile(path, page_checksum_verification=True)
            except FileNotFoundError as error:
                raise UserError(f"{path}: no such file", fix="Fetch the whole dataset") from error
        try:
            yield file
        finally:
            file.close()

    def _read(self, file: Any, path: Path, groups: Sequence[int], columns: list[str] | None) -> Any:
        with _refusing(path):
            tables = [file.read_row_group(n, columns) for n in groups]
            for n, table in zip(groups, tables, strict=True):
                table.validate(full=True)
                parquet_statistics.check(file, n, table, str(path))
            if not tables:
                return file.schema_arrow.empty_table()
            return self._pyarrow.concat_tables(tables)


def _refusing(path: Path) -> contextlib.AbstractContextManager[None]:
    return refusing(f"{path}: pyarrow cannot read it")


def _kind(kind: str) -> str:
    return "i" if kind == "u" else kind
