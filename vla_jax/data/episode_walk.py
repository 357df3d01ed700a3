"""Every episode of a split in order, read from its shards, local or remote."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from vla_jax.core.errors import UserError
from vla_jax.data import schema, storage, tfrecord
from vla_jax.data.shard_marks import ShardMark
from vla_jax.data.steps import Column, Rows, read_steps

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
        mark, number = self._marks[k], -1
        name = f"dataset {self._directory}, shard {mark.name}"
        records = tfrecord.records(
            lambda start, end: self._files.read(k, start, end),
            mark.size,
            name,
            verify=self._verify,
            chunk=_REMOTE_CHUNK if self._remote else tfrecord.CHUNK,
        )
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
