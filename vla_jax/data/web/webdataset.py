"""WebDataset: tar files in which the neighbouring files of one key are one example.

`7.jpg` and `7.json` (or `7.txt`) are the image and the texts of example `7`; the key is the path
up to the first dot of the file name.

Files `._NAME`, which macOS puts beside others, are no part of an example.

Source: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

import collections
import io
import itertools
import tarfile
from collections.abc import Collection, Iterator
from typing import NamedTuple

from vla_jax.core import paths
from vla_jax.core.errors import UserError
from vla_jax.data.flaw import Flaw
from vla_jax.data.web import formats, json_fields
from vla_jax.data.web.formats import Fields, Format, Place, Row
from vla_jax.runtime.storage import Files

_IMAGES = ("jpg", "jpeg", "png")
_PLAIN = "txt"
_TEXTS = ("json", _PLAIN)
_BLOCK = 512


class WebDataset(Format):
    """Shards of key.jpg (or .jpeg, .png) + key.json (or .txt); other files of a key are ignored."""

    suffix = ".tar"
    is_whole = False

    def walk(self, files: Files, k: int, where: str) -> Iterator[Place | Flaw]:
        """Yields every key of the shard."""
        members, keys = _members(files, k, where), set[str]()
        for key, group in itertools.groupby(members, lambda member: member.key):
            name = f"{where}, key {key!r}"
            try:
                parts = _parts(list(group), name, is_new=key not in keys)
                image = _one(parts, _IMAGES, "image", name)
                text = _one(parts, _TEXTS, "text", name)
            except UserError as error:
                yield Flaw(kind="record", place=name, reason=str(error))
                continue
            finally:
                keys.add(key)
            start = min(image.start, text.start)
            row = Row(
                start,
                max(image.end, text.end) - start,
                image.start - start,
                image.end - start,
                text.start - start,
                text.end - start,
                text.extension == _PLAIN,
            )
            yield Place(name, row, text.content)

    def fields(self, text: bytes, is_plain: bool, names: Collection[str], where: str) -> Fields:
        """Reads the JSON, or the text as the field `txt`."""
        if is_plain:
            return {_PLAIN: [formats.decode(text, where)]}
        return json_fields.read(text, names, where)


class _Member(NamedTuple):
    """One file of a tar; `content` is read of texts only."""

    key: str
    extension: str
    start: int
    end: int
    content: bytes


def _parts(members: list[_Member], where: str, *, is_new: bool) -> dict[str, _Member]:
    """Returns the files of a key by extension.

    Raises:
      UserError: it has two of one name, or has been there before, or leads out of the folder that
        it would be unpacked into.
    """
    key, found = members[0].key, collections.Counter(member.extension for member in members)
    paths.below("the archive", key or ".", where)
    twice = [extension for extension, count in found.items() if count > 1]
    if twice or not is_new:
        raise UserError(
            where,
            expected="every key once, with one file of a name",
            found=f"several .{twice[0]}" if twice else "the key again, behind others",
            fix="Write the shard again with different keys",
        )
    return {member.extension: member for member in members}


def _one(parts: dict[str, _Member], extensions: tuple[str, ...], what: str, where: str) -> _Member:
    for extension in extensions:
        if extension in parts:
            return parts[extension]
    raise UserError(
        f"{where}: no {what}",
        expected=f"a file .{' or .'.join(extensions)} beside the others of its key",
        found=", ".join(f".{name}" for name in parts),
        fix="Write the shard again with all files of a key one after the other",
    )


def _members(files: Files, k: int, where: str) -> Iterator[_Member]:
    """Yields the regular files of a tar.

    Raises:
      UserError: it is none, or is damaged; `tarfile` itself takes a damaged header for the end.
    """
    file, size, position = formats.stream(files, k), files.size(k), 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                position = entry.offset
                end = entry.offset_data + entry.size
                if not entry.offset_data <= end <= size:
                    raise tarfile.ReadError(f"an end at byte {size}")
                if entry.issparse():
                    raise tarfile.ReadError(f"a file with holes, {entry.name[:80]!r}")
                if entry.isfile() and not _is_of_macos(entry.name):
                    key, extension = _split(entry.name)
                    content = b""
                    if extension in _TEXTS:
                        file.seek(entry.offset_data)
                        content = file.read(entry.size)
                    yield _Member(key, extension, entry.offset_data, end, content)
                # All that were met are kept there, and nobody reads them.
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
            position = tar.offset
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise _damaged(where, position, str(error)) from error
    _check_end(file, position, size, where)


def _check_end(file: io.BufferedReader, position: int, size: int, where: str) -> None:
    """Checks that an archive ends with two blocks of zeros and nothing behind them.

    Without them it may have been cut between two files.
    """
    if size - position < 2 * _BLOCK:
        raise _damaged(where, position, f"an end at byte {size}, without the blocks that end it")
    file.seek(position)
    if any(file.read(_BLOCK)):
        raise _damaged(where, position, "a damaged header")
    while data := file.read(1 << 20):
        if any(data):
            raise _damaged(where, position, "more data behind the end of the archive")


def _is_of_macos(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith("._")


def _split(name: str) -> tuple[str, str]:
    """Returns key and extension of a file."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _damaged(where: str, position: int, found: str) -> UserError:
    return UserError(
        f"{where}, byte {position}: not a whole tar archive",
        expected="an uncompressed tar",
        found=found,
        fix="Copy or write the shard again",
    )
