"""Zip archives, of which npz and PyTorch's files are made: their members, and where these lie.

What the archive's directory says is checked against the file before anything is read there.
"""

import struct
import zipfile
from collections.abc import Iterator
from typing import Any

from vla_jax.core.errors import UserError
from vla_jax.models.pretrained import storage
from vla_jax.models.pretrained.tensors import Checksum

_DESCRIPTOR = 24  # bytes behind a member of an archive that was written in one go, at most


def open_archive(file: str, stream: Any, size: int, kind: str) -> zipfile.ZipFile:
    """Opens an archive.

    Args:
      file: its name.
      stream: its bytes.
      size: how many they are.
      kind: what it should be, for the message.

    Raises:
      UserError: it is none.
    """
    try:
        return zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, ValueError) as error:
        raise UserError(
            file, expected=kind, found=f"{size} bytes that are none", fix=storage.AGAIN
        ) from error


def members(file: str, stream: Any, opened: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    """Yields the members in the order in which they lie in the file.

    Raises:
      UserError: there is room for one between two of them, so that one may be lost.
    """
    end = 0
    for info in sorted(opened.infolist(), key=lambda info: info.header_offset):
        _check_gap(file, end, info.header_offset)
        yield info
        end = _first_byte(stream, info) + info.compress_size
    _check_gap(file, end, opened.start_dir)


def stored(file: str, stream: Any, opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Checksum:
    """Returns where the bytes of a member lie that is not compressed, and their CRC32.

    Raises:
      UserError: they reach beyond the file's members.
    """
    first = _first_byte(stream, info)
    if first + info.file_size > opened.start_dir or info.compress_size != info.file_size:
        raise damaged(file, info.filename, "an array", "fewer bytes than the archive says")
    return Checksum(offset=first, length=info.file_size, crc=info.CRC)


def damaged(file: str, member: str, expected: object, found: object) -> UserError:
    """Returns the error that a member is not what it should be."""
    return UserError(f"{file}: {member}", expected=expected, found=found, fix=storage.AGAIN)


def _check_gap(file: str, end: int, begin: int) -> None:
    """Makes sure that no member is lost: there may only be a descriptor between two of them."""
    if not 0 <= begin - end <= _DESCRIPTOR:
        raise UserError(
            f"{file}: the archive's directory is corrupted",
            expected=f"a member or the directory at byte {end:,}",
            found=f"the next at {begin:,}",
            fix=storage.AGAIN,
        )


def _first_byte(stream: Any, info: zipfile.ZipInfo) -> int:
    """Returns where the data of a member begin, behind its own header."""
    stream.seek(info.header_offset + 26)
    name, extra = struct.unpack("<HH", stream.read(4))
    return info.header_offset + 30 + name + extra
