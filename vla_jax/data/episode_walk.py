"""Every episode of a split in order, read from its shards, local or remote."""

import collections
import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from vla_jax.core.errors import UserError
from vla_jax.data import schema, tfrecord
from vla_jax.data.shard_marks import ShardMark
from vla_jax.data.steps import Column, Rows, read_steps
from vla_jax.runtime import storage

_SHARDS_AT_ONCE = 8  # remote; a local disk is read by one thread, which the parser outruns
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
    """

    where: str
    shard: int
    start: int
    length: int
    crc: bytes
    steps: int
    rows: dict[Column, Rows]


class Walk:
    """Reads the episodes of one split.

    Args:
      directory: the dataset's version directory, local or remote.
      split: its shards.
      files: the same shards, to read from.
      marks: what they look like.
      columns: what to read of each episode.
      verify: whether to compare the checksums.
    """

    def __init__(
        self,
        directory: schema.Directory,
        split: schema.Split,
        files: storage.Files,
        marks: Sequence[ShardMark],
        columns: Sequence[Column],
        *,
        verify: bool,
    ):
        self._directory, self._split, self._files = directory, split, files
        self._marks, self._columns, self._verify = marks, columns, verify
        self._remote = storage.is_remote(directory)
        self._local = _LocalShards()

    def __iter__(self) -> Iterator[Episode]:
        """Yields every episode in order.

        Raises:
          UserError: a record is damaged or does not match the schema; a shard has more or fewer
            episodes than the dataset says.
        """
        shards = range(len(self._files))
        if not self._remote:
            for k in shards:
                yield from self._shard(k)
            return
        # Requests take long, so that several shards are under way; they are few bytes once read.
        with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
            waiting: collections.deque[Future[list[Episode]]] = collections.deque()
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

    def _shard(self, k: int) -> Iterator[Episode]:
        if self._remote:
            read = functools.partial(self._files.read, k)
            yield from self._records(k, read, _REMOTE_CHUNK)
        else:
            with self._local.reading(self._files.paths[k]) as read:
                yield from self._records(k, read, tfrecord.CHUNK)

    def _records(
        self, k: int, read: Callable[[int, int], tfrecord.B], chunk: int
    ) -> Iterator[Episode]:
        mark, number = self._marks[k], -1
        name = f"dataset {self._directory}, shard {mark.name}"
        records = tfrecord.records(read, mark.size, name, verify=self._verify, chunk=chunk)
        for number, record in enumerate(records):
            where = f"{name}, episode {number} of the shard"
            steps, rows = read_steps(record, self._columns, where)
            length = record.end - record.start
            yield Episode(where, k, record.offset, length, record.crc, steps, rows)
        lengths = self._split.shard_lengths
        if lengths is not None and number + 1 != lengths[k]:
            raise UserError(
                name,
                expected=f"{lengths[k]} episodes, as dataset_info.json says",
                found=number + 1,
                fix="Download or generate the shard again",
            )


class _LocalShards:
    """Reads local files, one after the other, into one buffer.

    Fresh memory for every record costs more than all the parsing: the system clears each page.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    @contextlib.contextmanager
    def reading(self, path: str) -> Iterator[Callable[[int, int], bytearray]]:
        """Opens a shard.

        Gives what reads it: the bytes `start` to `end`, at the beginning of the buffer, until the
        next are read.
        """
        try:
            file = io.FileIO(path)
        except OSError as error:
            raise UserError(f"shard {path}: {error.strerror}") from error
        with file:
            yield lambda start, end: self._read(file, path, start, end)

    def _read(self, file: io.FileIO, path: str, start: int, end: int) -> bytearray:
        if len(self._buffer) < end - start:
            self._buffer = bytearray((end - start) * 5 // 4)  # the next one may be longer
        file.seek(start)
        window = memoryview(self._buffer)[: end - start]
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
        return self._buffer
