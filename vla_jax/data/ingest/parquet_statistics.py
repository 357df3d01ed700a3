"""Compares a row group of a parquet file with the statistics of it in the file."""

from collections.abc import Iterator
from typing import Any

from vla_jax.core.errors import UserError

_TRUNCATED = 64  # bytes: writers cut longer texts, and what remains is a bound


def check(file: Any, group: int, table: Any, place: str) -> None:
    """Compares numbers of values, empty cells, the smallest and the largest value.

    Args:
      file: a `pyarrow.parquet.ParquetFile`.
      group: number of the row group.
      table: what was read of it, all columns or some.
      place: the file, for messages.

    Raises:
      UserError: they differ; names the column.
    """
    metadata = file.metadata.row_group(group)
    if table.num_rows != metadata.num_rows:
        _refuse(place, group, "rows", metadata.num_rows, table.num_rows)
    start = 0
    for field in file.schema_arrow:
        count = _count(field.type)
        if field.name in table.column_names:
            leaves = _leaves(table.column(field.name).combine_chunks())
            for leaf, number in zip(leaves, range(start, start + count), strict=True):
                found = metadata.column(number)
                if found.statistics is not None and leaf is not None:
                    what = f"column {found.path_in_schema}"
                    _compare(found.statistics, leaf, place, group, what)
        start += count


def _compare(said: Any, values: Any, place: str, group: int, what: str) -> None:
    import pyarrow.compute as pc  # noqa: PLC0415 - an extra; the caller has checked that it is there

    if said.num_values != len(values) - values.null_count:
        _refuse(place, group, what, f"{said.num_values} values", len(values) - values.null_count)
    if not said.has_min_max:
        return
    try:
        found = pc.call_function("min_max", [values]).as_py()
    except NotImplementedError:  # of decimals and the like
        return
    low, high = found["min"], found["max"]
    if type(said.min) is not type(low) or type(said.max) is not type(high):
        if low is not None:  # empty, or all NaN
            return
        _refuse(place, group, what, f"{said.min!r} to {said.max!r}", "no value")
    exact = not isinstance(low, str | bytes) or max(len(said.min), len(said.max)) < _TRUNCATED
    if (low, high) == (said.min, said.max) if exact else said.min <= low and high <= said.max:
        return
    # Of writers that order texts or unsigned numbers otherwise pyarrow gives no statistics.
    _refuse(place, group, what, _range(said.min, said.max), _range(low, high))


def _range(low: Any, high: Any) -> str:
    return f"{str(low)[:40]} to {str(high)[:40]}"


def _refuse(place: str, group: int, what: str, expected: object, found: object) -> None:
    raise UserError(
        f"{place}: row group {group}, {what}: not as the file's own statistics say, it is damaged",
        expected=expected,
        found=found,
        fix="Fetch the file again",
    )


def _count(kind: Any) -> int:
    """Number of parquet columns that hold a column of this type."""
    if hasattr(kind, "storage_type"):
        return _count(kind.storage_type)
    fields = [kind.field(k) for k in range(kind.num_fields)]
    return sum(_count(field.type) for field in fields) if fields else 1


def _leaves(values: Any) -> Iterator[Any]:
    """Yields the innermost arrays in the order of parquet columns; None where it is unclear."""
    import pyarrow as pa  # noqa: PLC0415

    if hasattr(values, "storage"):
        yield from _leaves(values.storage)
    elif pa.types.is_struct(values.type):
        for k in range(values.type.num_fields):
            # `flatten` carries the empty cells of the struct to its fields.
            yield from _leaves(values.flatten()[k])
    elif pa.types.is_map(values.type) or pa.types.is_union(values.type):
        yield from [None] * _count(values.type)
    elif values.type.num_fields:
        yield from _leaves(values.flatten())
    else:
        yield values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
