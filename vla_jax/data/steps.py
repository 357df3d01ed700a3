"""One record as rows, one per step: where its images lie, its numbers, its texts.

A feature `steps/...` has one value per step; any other has one per episode, repeated at every
step. A record without `steps` (a web question) is an episode of one step.
"""

import contextlib
import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from vla_jax.core.errors import UserError
from vla_jax.data import tfrecord
from vla_jax.data.schema import Feature

Rows = np.ndarray | list[list[bytes]]
_RAGGED = "/ragged_"  # what TFDS puts between the name of a list and those of its parts
_WIDE = {"int64", "uint32", "uint64"}
_KINDS = {tfrecord.BYTES: "bytes", tfrecord.FLOAT: "floats", tfrecord.INT: "integers"}


@dataclasses.dataclass(frozen=True)
class Column:
    """One feature and what the index keeps of it.

    Attributes:
      feature: the feature.
      role: `image` (where it lies), `array` (its numbers) or `text`. Integers in the role of a
        text are its UTF-8 codes, zeros behind it.
    """

    feature: Feature
    role: Literal["image", "array", "text"]

    def __hash__(self) -> int:  # of all fields takes ten times as long, several times a record
        return hash((self.feature.name, self.role))

    @property
    def name(self) -> str:
        """Name of the feature."""
        return self.feature.name

    @property
    def dtype(self) -> np.dtype:
        """How the numbers are kept: float32, int32, bool, or int64 where the dataset needs it."""
        if self.role == "image":
            return np.dtype(np.uint32)
        if self.feature.kind == "float":
            return np.dtype(np.float32)
        if self.feature.dtype == "bool":
            return np.dtype(np.bool_)
        return np.dtype(np.int64 if self.feature.dtype in _WIDE else np.int32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row; an image's is where it begins in the record, and its length."""
        return (2,) if self.role == "image" else tuple(n or 0 for n in self.feature.shape)

    @property
    def is_numeric(self) -> bool:
        """Whether the records hold numbers."""
        return self.role == "array" or (self.role == "text" and self.feature.kind == "int")

    @property
    def numbers(self) -> int:
        """How many entries of a record's value list make one row."""
        return (self.feature.size or 1) if self.is_numeric else 1

    @property
    def is_list(self) -> bool:
        """Whether a row has several texts, as the answers of a question."""
        return self.role == "text" and self.feature.kind == "text" and self.feature.shape == (None,)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values; `from_json` inverts it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Column":
        """Builds a column from what `to_json` returned, after a trip through a JSON file."""
        feature = values["feature"]
        return cls(Feature(**feature | {"shape": tuple(feature["shape"])}), values["role"])


def read_steps(
    record: tfrecord.Record, columns: Sequence[Column], where: str
) -> tuple[int, dict[Column, Rows]]:
    """Reads the columns of one episode.

    Args:
      record: one tf.train.Example.
      columns: what to read.
      where: dataset, shard and episode, for messages.

    Returns:
      The number of steps, and per column its rows, one per step: uint32 [n, 2] (start in the
      record, length in bytes) for images, [n, ...] for numbers, n lists of UTF-8 for texts.

    Raises:
      UserError: the record is damaged, lacks a feature, has no step, or its features differ in
        the number of steps.
    """
    try:
        found = tfrecord.features(record.buffer, record.start, record.end)
        values = {
            column: _values(record, place, column)
            for column in columns
            if (place := _find(record, found, column)) is not None
        }
    except (ValueError, IndexError, zlib.error) as error:
        raise UserError(
            f"{where}: {error}",
            expected="a tf.train.Example as features.json describes it",
            fix="The record does not match features.json: generate the dataset again",
        ) from error
    steps = _count(columns, values, where)
    rows: dict[Column, Rows] = {}
    for column in columns:
        if column not in values:
            raise UserError(
                f"{where}: no feature {column.name!r}",
                expected=f"one of {', '.join(sorted(found))}",
                fix="The record does not match features.json: generate the dataset again",
            )
        rows[column] = _per_step(values[column], column, steps, where)
        if column.role == "text":
            _check_utf8(rows[column], f"{where}, feature {column.name!r}")
    return steps, rows


def _find(
    record: tfrecord.Record, found: dict[str, tuple[int, int, int]], column: Column
) -> tuple[int, int, int] | None:
    """Returns the value list of a feature; None where the record has none.

    A Sequence of fixed length in the steps is stored as TFDS stores lists: all values, and beside
    them the length of each.

    Raises:
      ValueError: one has another length.
    """
    flat = f"{column.name}{_RAGGED}flat_values"
    if column.name in found or flat not in found:
        return found.get(column.name)
    for axis, size in enumerate(column.feature.shape):
        name = f"{column.name}{_RAGGED}row_lengths_{axis}"
        if name not in found:  # an axis of each Tensor in the Sequence
            break
        kind, start, end = found[name]
        if kind != tfrecord.INT:
            raise ValueError(f"feature {name!r}: expected integers")
        lengths = tfrecord.integers(record.buffer, start, end)
        if (lengths != size).any():
            step = int(np.flatnonzero(lengths != size)[0])
            raise ValueError(
                f"feature {column.name!r}, list {step}: expected {size} values, "
                f"found {lengths[step]}"
            )
    return found[flat]


def _values(record: tfrecord.Record, place: tuple[int, int, int], column: Column) -> Rows:
    """Reads one value list; numbers are still flat."""
    kind, start, end = place
    encoded = column.is_numeric and column.feature.encoding != "none"
    expected = tfrecord.BYTES
    if column.is_numeric and not encoded:
        expected = tfrecord.FLOAT if column.feature.kind == "float" else tfrecord.INT
    if kind != expected:
        kinds = f"expected {_KINDS[expected]}, found {_KINDS.get(kind, 'no values')}"
        raise ValueError(f"feature {column.name!r}: {kinds}")
    if kind == tfrecord.FLOAT:
        return tfrecord.floats(record.buffer, start, end)
    if kind == tfrecord.INT:
        return tfrecord.integers(record.buffer, start, end)
    spans = tfrecord.spans(record.buffer, start, end)
    if column.role == "image":
        table = np.array(spans, np.int64).reshape(-1, 2)
        return np.stack([table[:, 0] - record.start, table[:, 1] - table[:, 0]], 1)
    texts = [bytes(record.buffer[first:last]) for first, last in spans]
    if encoded:
        return _decoded(texts, column.feature)
    return [texts] if column.is_list else [[text] for text in texts]


def _decoded(values: list[bytes], feature: Feature) -> np.ndarray:
    """Joins arrays that TFDS stored as the bytes of their memory."""
    if feature.encoding == "zlib":
        values = [zlib.decompress(value) for value in values]
    return np.frombuffer(b"".join(values), feature.dtype)


def _count(columns: Sequence[Column], values: dict[Column, Rows], where: str) -> int:
    """Returns the number of steps, by the first feature that has one value per step."""
    per_step = [column for column in columns if column.feature.per_step]
    if not per_step:
        return 1
    for column in per_step:
        if len(values.get(column, ())):
            return len(values[column]) // column.numbers
    raise UserError(
        f"{where}: the episode is empty",
        expected="at least one step",
        found="none",
        fix="Generate the dataset without it",
    )


def _per_step(values: Rows, column: Column, steps: int, where: str) -> Rows:
    """Cuts a value list into rows; what an episode has once is repeated."""
    rows, size = (steps if column.feature.per_step else 1), column.numbers
    if len(values) != rows * size:
        raise UserError(
            f"{where}: feature {column.name!r}",
            expected=f"{rows * size} values ({rows} of shape {column.feature.shape})",
            found=len(values),
            fix="The record does not match features.json: generate the dataset again",
        )
    if isinstance(values, np.ndarray):
        if column.role == "text":
            codes = values.astype(np.uint8).reshape(rows, size)
            values = [[row.tobytes().rstrip(b"\0")] for row in codes]
        else:
            values = values.reshape(rows, *column.shape).astype(column.dtype)
    if rows == steps:
        return values
    return values * steps if isinstance(values, list) else np.repeat(values, steps, axis=0)


def _check_utf8(rows: Rows, where: str) -> None:
    """Makes sure that texts can be read; names the step of one that cannot."""
    with contextlib.suppress(UnicodeDecodeError):
        b"\0".join(text for texts in rows for text in texts).decode()
        return
    for t, texts in enumerate(rows):
        for text in texts:
            try:
                text.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{where}, step {t}",
                    expected="UTF-8",
                    found=f"the byte {text[error.start]:#04x} in {text[:80]!r}",
                    fix="Generate the dataset with its texts in UTF-8",
                ) from error
