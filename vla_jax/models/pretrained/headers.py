"""Which tensors a file has, and where: the headers of safetensors, npz and PyTorch's files.

They are read here rather than by the libraries, because those copy what they read and know local
files only. Whatever they say is checked against the file's size before anything is read there.
"""

import math
import os
import struct
import zipfile
from typing import Annotated, Any, TypedDict

import numpy as np
from msgspec import Meta

from vla_jax.core import json_file
from vla_jax.core.errors import UserError
from vla_jax.models.pretrained import archive, storage, torch_file
from vla_jax.models.pretrained.tensors import BFLOAT16, Tensor, truncated

_HEADER_LIMIT = 100_000_000  # bytes, that of the safetensors library
_FLOATS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": BFLOAT16,
}
_BITS = {
    **{name: 8 * dtype.itemsize for name, dtype in _FLOATS.items()},
    **{f"{sign}{bits}": bits for sign in "IU" for bits in (8, 16, 32, 64)},
    "BOOL": 8,
    "C64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
}

_Count = Annotated[int, Meta(ge=0)]


class _Entry(TypedDict):
    dtype: str
    shape: list[_Count]
    data_offsets: tuple[_Count, _Count]


def tensors_of(file: str) -> dict[str, Tensor]:
    """Lists the tensors of a safetensors, npz or PyTorch (`.pt`) file; reads its headers only.

    Raises:
      UserError: it is incomplete or damaged.
    """
    system, path = storage.system(file)
    archives = {".npz": _npz, ".pt": torch_file.tensors}
    read_header = archives.get(os.path.splitext(file)[1], _safetensors)

    def read() -> dict[str, Tensor]:
        size = system.info(path)["size"]
        with system.open(path, "rb") as stream:
            return read_header(file, stream, size)

    return storage.reading(file, read)


def _safetensors(file: str, stream: Any, size: int) -> dict[str, Tensor]:
    """Source: the format's README, huggingface/safetensors."""
    start = stream.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= _HEADER_LIMIT:
        raise UserError(
            file,
            expected="a safetensors file",
            found=f"no header of one in {size:,} bytes",
            fix=storage.AGAIN,
        )
    begin = 8 + length
    if begin > size:
        raise truncated(file, begin, size)
    what = f"{file}: a damaged header"
    header = json_file.decode(stream.read(length), dict[str, Any], what, fix=storage.AGAIN)
    header.pop("__metadata__", None)
    entries = {
        name: json_file.convert(entry, _Entry, f"{what}, tensor {name}", fix=storage.AGAIN)
        for name, entry in header.items()
    }
    _check_cover(file, entries, size - begin)
    return {
        name: Tensor(
            file=file,
            shape=tuple(entry["shape"]),
            dtype=_FLOATS.get(entry["dtype"]),
            kind=entry["dtype"],
            offset=begin + entry["data_offsets"][0],
        )
        for name, entry in entries.items()
    }


def _check_cover(file: str, entries: dict[str, _Entry], length: int) -> None:
    """Makes sure that tensors lie one behind the other and fill the file, as the format asks."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        if first != end or last < first:
            raise UserError(
                f"{file}: tensor {name}",
                expected=f"bytes from {end:,} on, where the one before it ends",
                found=f"{first:,} to {last:,}",
                fix=storage.AGAIN,
            )
        if entry["dtype"] not in _BITS:
            raise UserError(
                f"{file}: tensor {name}",
                expected=f"a dtype of safetensors: {', '.join(_BITS)}",
                found=entry["dtype"],
            )
        needed, rest = divmod(math.prod(entry["shape"]) * _BITS[entry["dtype"]], 8)
        if rest or needed != last - first:
            raise UserError(
                f"{file}: tensor {name}",
                expected=f"{needed} bytes for {tuple(entry['shape'])}",
                found=last - first,
                fix=storage.AGAIN,
            )
        end = last
    if end != length:
        raise truncated(file, end, length)


def _npz(file: str, stream: Any, size: int) -> dict[str, Tensor]:
    """Lists an npz; what is stored without compression can be mapped."""
    opened = archive.open_archive(file, stream, size, "an npz archive")
    out: dict[str, Tensor] = {}
    for info in archive.members(file, stream, opened):
        name = info.filename.removesuffix(".npy")
        if name in out:
            raise UserError(f"{file}: two members are called {info.filename}", fix=storage.AGAIN)
        out[name] = _member(file, stream, opened, info)
    return out


def _member(file: str, stream: Any, opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Tensor:
    try:
        with opened.open(info) as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0
            if version > (1, 0):
                read = np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(member)
            head = member.tell()
    except Exception as error:  # zipfile's, zlib's, EOFError, RuntimeError for an encrypted one
        found = str(error) or type(error).__name__
        raise archive.damaged(file, info.filename, "an array", found) from error
    needed = head + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or (needed != info.file_size and not dtype.hasobject):
        found = f"{info.file_size:,} bytes for {shape} of {dtype}"
        raise archive.damaged(file, info.filename, "an array", found)
    offset, checksum = None, None
    if info.compress_type == zipfile.ZIP_STORED:
        checksum = archive.stored(file, stream, opened, info)
        offset = checksum.offset + head
    # numpy stores bfloat16, which it does not know, as two bytes without a meaning.
    real = BFLOAT16 if dtype == np.dtype("V2") else dtype
    return Tensor(
        file=file,
        shape=shape,
        dtype=real if real in _FLOATS.values() else None,
        kind=str(real),
        offset=offset,
        member=info.filename,
        order="F" if fortran else "C",
        checksum=checksum,
    )
