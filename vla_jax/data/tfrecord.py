"""TFRecord shards and `tf.train.Example` in protobuf wire format, read without TensorFlow.

A shard is a sequence of `uint64 length | uint32 crc | payload | uint32 crc`; the payload is an
Example: one map of feature name -> bytes list, float list or int64 list. Only positions are
computed here; the caller copies out what it needs.
"""

import mmap
import pathlib
import struct
from collections.abc import Iterator

import numpy as np

from vla_jax.core.arrays import Float, Int
from vla_jax.core.errors import UserError

Buffer = mmap.mmap | bytes

BYTES, FLOAT, INT = 1, 2, 3  # field numbers of tf.train.Feature
_ENTRY = 0x0A  # field 1, length-delimited: map entries, keys and packed or repeated values
_VALUE = 0x12  # field 2, length-delimited: the value of a map entry
_HEADER, _FOOTER = 12, 4  # length and its checksum; checksum of the payload


def shards(directory: pathlib.Path, split: str) -> list[pathlib.Path]:
    """Returns the TFRecord shards of one split of a TFDS version directory, in order.

    Raises:
      UserError: there is none.
    """
    found = sorted(directory.glob(f"*-{split}.tfrecord*"))
    if not found:
        raise UserError(
            f"dataset {directory}",
            expected=f"TFRecord shards of split {split!r} (*-{split}.tfrecord-00000-of-...)",
            found="none",
        )
    return found


def records(buffer: Buffer, name: str) -> Iterator[tuple[int, int]]:
    """Yields (start, end) of each payload in a shard.

    Raises:
      UserError: the shard ends inside a record.
    """
    position, size = 0, len(buffer)
    while position < size:
        header = buffer[position : position + 8]
        end = position + _HEADER + (struct.unpack("<Q", header)[0] if len(header) == 8 else size)
        if end + _FOOTER > size:
            raise UserError(
                f"shard {name}, byte {position}",
                expected="a whole record",
                found=f"a file that ends at byte {size}",
                fix="Download or generate the dataset again",
            )
        yield position + _HEADER, end
        position = end + _FOOTER


def _varint(buffer: Buffer, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _field(buffer: Buffer, position: int, tag: int) -> tuple[int, int]:
    """Returns (start, end) of the length-delimited field at `position`, whose tag must be `tag`."""
    if buffer[position] != tag:
        raise ValueError(f"byte {position}: expected tag {tag:#x}, found {buffer[position]:#x}")
    length, start = _varint(buffer, position + 1)
    return start, start + length


def features(buffer: Buffer, start: int, end: int) -> dict[str, tuple[int, int, int]]:
    """Returns name -> (kind, start, end) of the value list of each feature of one Example.

    Raises:
      ValueError: the bytes are no Example.
    """
    out: dict[str, tuple[int, int, int]] = {}
    if start == end:
        return out
    position, end = _field(buffer, start, _ENTRY)
    while position < end:
        entry, entry_end = _field(buffer, position, _ENTRY)
        key, key_end = _field(buffer, entry, _ENTRY)
        if key_end < entry_end:
            value, value_end = _field(buffer, key_end, _VALUE)
            if value < value_end:
                kind = buffer[value] >> 3
                first, last = _field(buffer, value, kind << 3 | 2)
                out[bytes(buffer[key:key_end]).decode()] = (kind, first, last)
        position = entry_end
    return out


def spans(buffer: Buffer, start: int, end: int) -> list[tuple[int, int]]:
    """Returns (start, end) of each element of a bytes list."""
    out = []
    while start < end:
        first, start = _field(buffer, start, _ENTRY)
        out.append((first, start))
    return out


def floats(buffer: Buffer, start: int, end: int) -> Float[np.ndarray, " n"]:
    """Returns a float list as float32; TensorFlow always writes it packed."""
    if start == end:
        return np.zeros(0, np.float32)
    first, last = _field(buffer, start, _ENTRY)
    return np.frombuffer(buffer, "<f4", (last - first) // 4, first).copy()


def integers(buffer: Buffer, start: int, end: int) -> Int[np.ndarray, " n"]:
    """Returns an int64 list; TensorFlow always writes it packed."""
    out = []
    position, end = _field(buffer, start, _ENTRY) if start < end else (start, end)
    while position < end:
        value, position = _varint(buffer, position)
        out.append(value)
    return np.asarray(out, np.uint64).astype(np.int64)
