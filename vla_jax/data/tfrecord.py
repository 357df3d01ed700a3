"""TFRecord shards and `tf.train.Example` in protobuf wire format, read without TensorFlow.

A shard is a sequence of `uint64 length | uint32 crc | payload | uint32 crc`; the payload is an
Example: one map of feature name -> bytes list, float list or int64 list. Only positions are
computed here; the caller copies out what it needs.

Source: https://www.tensorflow.org/tutorials/load_data/tfrecord and tensorflow/core/example.
"""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

import numpy as np

from vla_jax.core.arrays import Float, Int
from vla_jax.core.errors import UserError
from vla_jax.data.records import masked_crc32c

Buffer = bytes | bytearray
B = TypeVar("B", bytes, bytearray)

CHUNK = 1 << 20  # bytes read at once from a local disk, at least
BYTES, FLOAT, INT = 1, 2, 3  # field numbers of tf.train.Feature
_ENTRY = 0x0A  # field 1, length-delimited: map entries, keys and packed or repeated values
_VALUE = 0x12  # field 2, length-delimited: the value of a map entry
_HEADER, FOOTER = 12, 4  # length and its checksum; checksum of the payload
FRAME = _HEADER + FOOTER  # bytes around each payload
AGAIN = "Copy, download or generate the shard again"  # what to do about a damaged one


class CorruptedError(UserError):
    """The bytes of a shard are not those that were written."""


@dataclasses.dataclass(frozen=True)
class Record(Generic[B]):
    """One record of a shard, in memory.

    Attributes:
      buffer: holds the payload, until the next record is asked for where the reader uses it again.
      start: where the payload begins in `buffer`.
      end: where it ends.
      offset: where the payload begins in the shard.
    """

    buffer: B
    start: int
    end: int
    offset: int

    @property
    def crc(self) -> bytes:
        """The checksum of the payload, as stored: 4 bytes."""
        return bytes(self.buffer[self.end : self.end + FOOTER])


def records(
    read: Callable[[int, int], B],
    size: int,
    name: str,
    *,
    verify: bool = True,
    chunk: int = CHUNK,
    start_read: Callable[[int, int], Future[B]] | None = None,
) -> Iterator[Record[B]]:
    """Yields the records of a shard in order.

    Args:
      read: returns the bytes `start` to `end` of the shard, at the beginning of a buffer that may
        be longer.
      size: bytes of the shard.
      name: the shard, for messages, e.g. `dataset D, shard S`.
      verify: whether to compare the checksum of each payload; that of its length always is. False
        is for callers that do so themselves.
      chunk: bytes to read at once, at least; a record that is longer is read whole.
      start_read: begins to read, as `read` does, what comes next while the caller works on a
        record; the buffer is another than that of the read before.

    Raises:
      CorruptedError: the shard ends inside a record, or a checksum is wrong. Records behind a wrong
        length cannot be found.
    """
    if not size:
        return
    window = _Window(read, size, chunk, start_read)
    position = number = 0
    while position < size:
        place = f"{name}, episode {number} of the shard (byte {position})"
        length = window.length(position) if window.load(position, position + _HEADER) else 0
        if length is None:
            raise corrupted(place, "length")
        end = position + length + FRAME
        if not window.load(position, end):
            raise CorruptedError(
                place,
                expected="a whole record",
                found=f"a file that ends at byte {size}",
                fix=AGAIN,
            )
        start = position - window.start + _HEADER
        record = Record(window.buffer, start, start + length, position + _HEADER)
        if verify:
            payload = bytes(memoryview(window.buffer)[start : start + length])
            if masked_crc32c(payload) != int.from_bytes(record.crc, "little"):
                raise corrupted(place, "payload")
        position, number = end, number + 1
        window.look_ahead(position)
        yield record


class _Window(Generic[B]):
    """The bytes of a shard that are in memory: those from `start` on, at the beginning of `buffer`.

    Args: as `records` has them.
    """

    def __init__(
        self,
        read: Callable[[int, int], B],
        size: int,
        chunk: int,
        start_read: Callable[[int, int], Future[B]] | None,
    ):
        self._read, self._size, self._chunk, self._start_read = read, size, chunk, start_read
        self.start, self._end = 0, min(max(_HEADER, chunk), size)
        self.buffer = read(0, self._end)
        self._next: tuple[int, int, Future[B]] | None = None

    def load(self, start: int, end: int) -> bool:
        """Sees to it that these bytes are here; False where the file ends before."""
        if end > self._size:
            return False
        if end > self._end:
            if self._next is not None and self._next[0] == start and self._next[1] >= end:
                self.start, self._end, coming = self._next
                self.buffer = coming.result()
            else:
                self.start, self._end = self._bounds(start, end)
                self.buffer = self._read(self.start, self._end)
            self._next = None
        return True

    def length(self, position: int) -> int | None:
        """Returns the length of the record whose header is there; None where it is corrupted."""
        start = position - self.start
        header = bytes(self.buffer[start : start + _HEADER])
        if masked_crc32c(header[:8]) != int.from_bytes(header[8:], "little"):
            return None
        return int.from_bytes(header[:8], "little")

    def look_ahead(self, position: int) -> None:
        """Begins to read the record there, if its header is here and the rest of it is not."""
        if self._start_read is None or position + _HEADER > self._end:
            return
        length = self.length(position)
        if length is not None and self._end < position + length + FRAME <= self._size:
            bounds = self._bounds(position, position + length + FRAME)
            self._next = (*bounds, self._start_read(*bounds))

    def _bounds(self, start: int, end: int) -> tuple[int, int]:
        # The next record's header comes along, so that its length is known.
        return start, min(max(end + _HEADER, start + self._chunk), self._size)


def corrupted(place: str, part: str) -> CorruptedError:
    """Returns the error of a record whose checksum is another than the stored one.

    Args:
      place: dataset, shard and number of the record.
      part: `length` or `payload`.
    """
    return CorruptedError(
        f"{place}: the {part} is corrupted (its checksum is wrong)",
        fix=AGAIN,
    )


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
    position, last = _field(buffer, start, _ENTRY)
    if last > end:
        raise ValueError(f"byte {start}: features longer than their record")
    end = last
    while position < end:
        entry, entry_end = _field(buffer, position, _ENTRY)
        key, key_end = _field(buffer, entry, _ENTRY)
        if key_end < entry_end:
            value, value_end = _field(buffer, key_end, _VALUE)
            if value < value_end:
                kind = buffer[value] >> 3
                first, last = _field(buffer, value, kind << 3 | 2)
                if last > entry_end or entry_end > end:
                    raise ValueError(f"byte {position}: a feature longer than its record")
                out[buffer[key:key_end].decode()] = (kind, first, last)
        position = entry_end
    return out


def spans(buffer: Buffer, start: int, end: int) -> list[tuple[int, int]]:
    """Returns (start, end) of each element of a bytes list.

    Raises:
      ValueError: an element is longer than the list.
    """
    out = []
    first = start
    while start < end:
        if buffer[start] != _ENTRY:
            raise ValueError(f"byte {start}: expected tag {_ENTRY:#x}, found {buffer[start]:#x}")
        length, first = buffer[start + 1], start + 2
        if length >= 0x80:  # lengths of two and three bytes without a call, for each image has one
            second, third = buffer[first], buffer[first + 1]
            if second < 0x80:
                length, first = length & 0x7F | second << 7, first + 1
            elif third < 0x80:
                length, first = length & 0x7F | (second & 0x7F) << 7 | third << 14, first + 2
            else:
                length, first = _varint(buffer, start + 1)
        start = first + length
        out.append((first, start))
    if start > end:
        raise ValueError(f"byte {first}: an element longer than its list")
    return out


def floats(buffer: Buffer, start: int, end: int) -> Float[np.ndarray, " n"]:
    """Returns a float list as float32; TensorFlow always writes it packed."""
    if start == end:
        return np.zeros(0, np.float32)
    first, last = _field(buffer, start, _ENTRY)
    return np.frombuffer(buffer, "<f4", (last - first) // 4, first).copy()


def integers(buffer: Buffer, start: int, end: int) -> Int[np.ndarray, " n"]:
    """Returns an int64 list; TensorFlow always writes it packed."""
    first, last = _field(buffer, start, _ENTRY) if start < end else (start, end)
    raw = np.frombuffer(buffer, np.uint8, last - first, first)
    ends = np.flatnonzero(raw < 0x80)
    if len(ends) == len(raw):  # every number below 128, as in flags and ASCII codes
        return raw.astype(np.int64)
    if not len(ends) or ends[-1] != len(raw) - 1:
        raise ValueError(f"byte {last}: a list of integers ends inside a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(raw)) - np.repeat(starts, np.diff(starts, append=len(raw)))
    if place.max() > 9:
        raise ValueError(f"byte {first}: an integer of more than 64 bits")
    bits = (raw & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.bitwise_or.reduceat(bits, starts).astype(np.int64)
