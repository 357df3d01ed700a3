"""What a shard looked like when it was indexed, and whether it still looks so."""

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vla_jax.core.errors import UserError
from vla_jax.data.records import masked_crc32c
from vla_jax.runtime import storage

_ENDS = 4096  # bytes that are looked at, at either end
_REQUESTS = 16  # at once, to remote storage


@dataclasses.dataclass(frozen=True)
class ShardMark:
    """One shard.

    Attributes:
      name: its file name.
      size: bytes.
      mtime_ns: time of its last change; None on remote storage.
      ends: checksum of its first and last 4 KiB, the last record's own checksum among them.
    """

    name: str
    size: int
    mtime_ns: int | None
    ends: int

    @classmethod
    def of(cls, files: storage.Files, k: int) -> "ShardMark":
        """Looks at shard `k`."""
        size, mtime_ns = _stat(files, k)
        return cls(os.path.basename(files.paths[k]), size, mtime_ns, _ends(files, k, size))

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values, the fields by name."""
        return dataclasses.asdict(self)


class ChangedShardError(UserError):
    """A shard is not what it was when it was indexed."""


def check(
    dataset: str,
    files: storage.Files,
    present: Sequence[str],
    marks: Sequence[ShardMark],
    command: str,
) -> None:
    """Compares every shard with its mark.

    Of a local shard whose time of change is another, copied or rewritten, the ends are compared;
    of a remote one the size only, since more requests for each shard would delay every start.

    Args:
      dataset: for messages.
      files: the shards, in the order of the marks.
      present: the names of the shards that the dataset has now.
      marks: what they were.
      command: what repairs the index.

    Raises:
      ChangedShardError: a shard has changed, is new or is missing; names it and the command.
    """

    def changed(shard: str, found: str) -> ChangedShardError:
        return ChangedShardError(
            f"dataset {dataset}, shard {shard}: changed since it was indexed",
            found=found,
            fix=f"Index it again: {command}",
        )

    def difference(k: int) -> str | None:
        mark = marks[k]
        size, mtime_ns = _stat(files, k)
        if size != mark.size:
            return f"{size} bytes, not {mark.size}"
        if mtime_ns != mark.mtime_ns and _ends(files, k, size) != mark.ends:
            return "other content"
        return None

    names = [mark.name for mark in marks]
    for shard in sorted(set(names) ^ set(present)):
        raise changed(shard, "no such file" if shard in names else "a new shard")
    if not any(map(storage.is_remote, files.paths)):
        found = map(difference, range(len(marks)))
    else:
        with ThreadPoolExecutor(_REQUESTS) as pool:
            found = list(pool.map(difference, range(len(marks))))
    for mark, other in zip(marks, found, strict=True):
        if other is not None:
            raise changed(mark.name, other)


def _stat(files: storage.Files, k: int) -> tuple[int, int | None]:
    """Returns size and time of change of a shard."""
    path = files.paths[k]
    if storage.is_remote(path):
        return files.size(k), None
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"shard {path}: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns


def _ends(files: storage.Files, k: int, size: int) -> int:
    """Returns the checksum of the ends of a shard."""
    head = files.read(k, 0, min(_ENDS, size))
    tail = files.read(k, max(0, size - _ENDS), size)
    return masked_crc32c(head + tail)
