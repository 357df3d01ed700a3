"""Every episode of a split in order, read from its shards, local or remote."""

import collections
import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from vla_jax.core.errors import UserError
from vla_jax.data import checksums, schema, tfrecord
from vla_jax.data.shard_marks import ShardMark
from vla_jax.data.steps import Column, Rows, read_steps
from vla_jax.runtime import storage

OnCorrupt = Literal["error", "skip"]

_SHARDS_AT_ONCE = 8  # remote; of local shards one is read, ahead of the parser
_REMOTE_CHUNK = 16 << 20


@dataclasses.dataclass(frozen=True)
class Episode:
    """One record, read.

    Attributes:
      where: dataset, shard and episode, for messages.
      shard: number of its shard.
      start: first byte of the record's payload in the shard.
      length: bytes of the payload.
      crc: checksum of the payload as stored, 4 bytes.
      steps: number of steps.
      rows: as `steps.read_steps` returns them.
      sums: of each image column: uint32 [n, 2], as `checksums.trace` returns them.
    """

    where: str
    shard: int
    start: int
    length: int
    crc: bytes
    steps: int
    rows: dict[Column, Rows]
    sums: dict[Column, np.ndarray]


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Records that cannot be read and were left out.

    Attributes:
      shard: the file's name.
      first: number of the first in its shard.
      count: how many; None where the dataset does not say how many there should be.
      reason: what is wrong with it, with its place.
    """

    shard: str
    first: int
    count: int | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values, the fields by name."""
        return dataclasses.asdict(self)


class Walk:
    """Reads the episodes of one split.

    Args:
      directory: the dataset's version directory, local or remote.
      split: its shards.
      files: the same shards, to read from.
      marks: what they look like.
      columns: what to read of each episode.
      on_corrupt: whether a record that cannot be read ends the walk (`error`) or is left out
        (`skip`).
    """

    def __init__(
        self,
        directory: schema.Directory,
        split: schema.Split,
        files: storage.Files,
        marks: Sequence[ShardMark],
        columns: Sequence[Column],
        *,
        on_corrupt: OnCorrupt,
    ):
        self._directory, self._split, self._files = directory, split, files
        self._marks, self._columns, self._skips = marks, columns, on_corrupt == "skip"
        self._remote = storage.is_remote(directory)

    def __iter__(self) -> Iterator[Episode | LeftOut]:
        """Yields every episode in order, and what is left out.

        Raises:
          UserError: a record is damaged or does not match the schema; a shard has more or fewer
            episodes than the dataset says.
        """
        shards = range(len(self._files))
        if not self._remote:
            with _LocalShards() as local:
                for k in shards:
                    with local.reading(self._files.paths[k]) as (read, start_read):
                        yield from self._records(k, read, tfrecord.CHUNK, start_read)
            return
        # Requests take long, so that several shards are under way; they are few bytes once read.
        with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
            waiting: collections.deque[Future[list[Episode | LeftOut]]] = collections.deque()
            try:
                for k in shards:
                    waiting.append(pool.submit(lambda k=k: list(self._shard(k))))
                    if len(waiting) == _SHARDS_AT_ONCE:
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _shard(self, k: int) -> Iterator[Episode | LeftOut]:
        return self._records(k, functools.partial(self._files.read, k), _REMOTE_CHUNK)

    def _records(
        self,
        k: int,
        read: Callable[[int, int], tfrecord.B],
        chunk: int,
        start_read: Callable[[int, int], Future[tfrecord.B]] | None = None,
    ) -> Iterator[Episode | LeftOut]:
        mark, number = self._marks[k], 0
        name = f"dataset {self._directory}, shard {mark.name}"
        lengths = self._split.shard_lengths
        expected = None if lengths is None else lengths[k]
        found = tfrecord.records(
            read, mark.size, name, verify=False, chunk=chunk, start_read=start_read
        )
        lost: UserError | None = None  # what ends the shard early
        while lost is None:
            try:
                record = next(found, None)
            except tfrecord.CorruptedError as error:  # nobody knows where the next one begins
                lost = error
                break
            if record is None:
                break
            try:
                item = self._episode(record, k, f"{name}, episode {number} of the shard")
            except UserError as error:
                item = self._left_out(mark.name, number, 1, error)
            yield item
            number += 1
        if lost is None and expected not in (None, number):
            lost = tfrecord.CorruptedError(
                name,
                expected=f"{expected} episodes, as dataset_info.json says",
                found=number,
                fix=tfrecord.AGAIN,
            )
        if lost is not None:
            missing = None if expected is None else max(0, expected - number)
            yield self._left_out(mark.name, number, missing, lost)

    def _episode(self, record: tfrecord.Record, k: int, where: str) -> Episode:
        try:
            steps, rows = read_steps(record, self._columns, where)
        except UserError:
            if checksums.trace(record, np.zeros((0, 2), np.int64)) is None:
                raise tfrecord.corrupted(where, "payload") from None
            raise
        images = [column for column in self._columns if column.role == "image"]
        # What an episode has once is the same at every step.
        spans = [
            np.asarray(rows[column])[: None if column.feature.per_step else 1] for column in images
        ]
        sums = checksums.trace(record, np.concatenate([np.zeros((0, 2), np.int64), *spans]))
        if sums is None:
            raise tfrecord.corrupted(where, "payload")
        parts = np.split(sums, np.cumsum([len(each) for each in spans])[:-1]) if spans else []
        return Episode(
            where=where,
            shard=k,
            start=record.offset,
            length=record.end - record.start,
            crc=record.crc,
            steps=steps,
            rows=rows,
            sums={
                column: np.broadcast_to(part, (steps, 2))
                for column, part in zip(images, parts, strict=True)
            },
        )

    def _left_out(self, shard: str, first: int, count: int | None, error: UserError) -> LeftOut:
        """Returns what to leave out.

        Raises:
          UserError: nothing may be left out.
        """
        if not self._skips:
            raise UserError(
                str(error).rstrip("."),
                fix="Or leave out what is damaged: vla-jax index DIR --on-corrupt=skip, or in "
                "training --config.loader.on_corrupt=skip",
            ) from error
        return LeftOut(shard, first, count, str(error))


class _LocalShards:
    """Reads local files, one after the other, into two buffers by turns.

    One is read into while the other is parsed. Fresh memory for every record costs more than all
    the parsing: the system clears each page.
    """

    def __init__(self) -> None:
        self._buffers = [bytearray(), bytearray()]
        self._thread = ThreadPoolExecutor(1, "shard")

    def __enter__(self) -> "_LocalShards":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the thread."""
        self._thread.shutdown()

    @contextlib.contextmanager
    def reading(
        self, path: str
    ) -> Iterator[tuple[Callable[[int, int], bytearray], Callable[[int, int], Future[bytearray]]]]:
        """Opens a shard.

        Gives what reads it and what begins to: the bytes `start` to `end`, at the beginning of a
        buffer, until the next but one are read.
        """
        try:
            file = io.FileIO(path)
        except OSError as error:
            raise UserError(f"shard {path}: {error.strerror}") from error
        read = functools.partial(self._read, file, path)
        with file:
            try:
                yield read, functools.partial(self._thread.submit, read)
            finally:
                self._thread.submit(int).result()  # when the read that is under way has ended

    def _read(self, file: io.FileIO, path: str, start: int, end: int) -> bytearray:
        self._buffers.reverse()
        if len(self._buffers[0]) < end - start:
            self._buffers[0] = bytearray((end - start) * 5 // 4)  # the next one may be longer
        file.seek(start)
        window = memoryview(self._buffers[0])[: end - start]
        found = 0
        while found < len(window):
            more = file.readinto(window[found:])
            if not more:
                raise UserError(
                    f"shard {path}, byte {start + found}",
                    expected=f"{end - start - found} bytes more",
                    found="the end of the file",
                    fix="Let it be written to its end before it is indexed",
                )
            found += more
        return self._buffers[0]
