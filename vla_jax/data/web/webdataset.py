"""WebDataset: tar files in which the neighbouring files of one key are one example.

`7.jpg` and `7.json` (or `7.txt`) are the image and the texts of example `7`; the key is the path
up to the first dot of the file name.

Source: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

import itertools
import tarfile
from collections.abc import Collection, Iterator
from typing import NamedTuple

from vla_jax.core.errors import UserError
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

    def walk(self, files: Files, k: int, where: str) -> Iterator[Place]:
        """Yields every key of the shard."""
        members = _members(files, k, where)
        for key, group in itertools.groupby(members, lambda member: member.key):
            parts: dict[str, _Member] = {}
            for member in group:
                parts.setdefault(member.extension, member)
            name = f"{where}, key {key!r}"
            image = _one(parts, _IMAGES, "image", name)
            text = _one(parts, _TEXTS, "text", name)
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
                if end > size:
                    raise tarfile.ReadError(f"an end at byte {size}")
                if entry.isfile():
                    key, extension = _split(entry.name)
                    content = b""
                    if extension in _TEXTS:
                        file.seek(entry.offset_data)
                        content = file.read(entry.size)
                    yield _Member(key, extension, entry.offset_data, end, content)
                # All that were met are kept there, and nobody reads them.
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
            position = tar.offset
    except (tarfile.TarError, ValueError) as error:
        raise _damaged(where, position, str(error)) from error
    file.seek(position)
    if any(file.read(_BLOCK)):  # an archive ends with a block of zeros
        raise _damaged(where, position, "a damaged header")


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
