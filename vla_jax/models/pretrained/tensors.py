"""The tensors of one file: listed at once, read one by one.

Headers are read here rather than by the libraries, because those copy what they read and know
local files only. A tensor of a local file is a view of the mapped file, which takes no memory
until a part of it is used; one on object storage is one ranged read.
"""

import dataclasses
import json
import math
import struct
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from vla_jax.core.errors import UserError
from vla_jax.models.pretrained import storage

_HEADER_LIMIT = 100_000_000  # bytes, that of the safetensors library
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """One array in a file.

    Attributes:
      file: path or URL of the file.
      shape: its shape.
      dtype: its dtype; None for one that is not of floats.
      kind: the file's own word for the dtype.
      offset: its first byte in the file; None inside a compressed archive.
      member: its name in the archive, for those.
      order: C or F.
    """

    file: str
    shape: tuple[int, ...]
    dtype: np.dtype | None
    kind: str
    offset: int | None
    member: str = ""
    order: str = "C"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def read(self) -> np.ndarray:
        """Returns the values, read only.

        Raises:
          UserError: it is not of floats, or cannot be read.
        """
        if self.dtype is None:
            raise UserError(f"{self.file}", expected="tensors of floats", found=self.kind)
        if self.offset is None:
            return self._decompressed().view(self.dtype)
        system, path = storage.system(self.file)
        order: Any = self.order
        if storage.is_local(system):
            if not self.size:
                return np.empty(self.shape, self.dtype)
            return np.memmap(path, self.dtype, "r", self.offset, self.shape, order)
        end = self.offset + self.size * self.dtype.itemsize
        data = storage.reading(self.file, lambda: system.cat_file(path, start=self.offset, end=end))
        if len(data) != end - self.offset:
            raise _truncated(self.file, end, self.offset + len(data))
        return np.frombuffer(data, self.dtype).reshape(self.shape, order=order)

    def _decompressed(self) -> np.ndarray:
        system, path = storage.system(self.file)

        def read() -> np.ndarray:
            with (
                system.open(path, "rb") as file,
                zipfile.ZipFile(file) as archive,
                archive.open(self.member) as member,
            ):
                return np.lib.format.read_array(member, allow_pickle=False)

        return storage.reading(self.file, read)


def tensors_of(file: str) -> dict[str, Tensor]:
    """Lists the tensors of a safetensors or npz file; reads its headers only.

    Raises:
      UserError: it is incomplete or damaged.
    """
    system, path = storage.system(file)

    def read() -> dict[str, Tensor]:
        size = system.info(path)["size"]
        with system.open(path, "rb") as stream:
            return (_npz if file.endswith(".npz") else _safetensors)(file, stream, size)

    return storage.reading(file, read)


def _safetensors(file: str, stream: Any, size: int) -> dict[str, Tensor]:
    """Source: the format's README, huggingface/safetensors."""
    start = stream.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= _HEADER_LIMIT:
        raise UserError(file, expected="a safetensors file", found="no header of one")
    if 8 + length > size:
        raise _truncated(file, 8 + length, size)
    try:
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        tensors = {
            name: Tensor(
                file=file,
                shape=tuple(entry["shape"]),
                dtype=_DTYPES.get(entry["dtype"]),
                kind=entry["dtype"],
                offset=8 + length + entry["data_offsets"][0],
            )
            for name, entry in header.items()
        }
        ends = {name: 8 + length + entry["data_offsets"][1] for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            file, expected="a safetensors file", found="a damaged header", fix=storage.AGAIN
        ) from error
    if (end := max(ends.values(), default=size)) != size:
        raise _truncated(file, end, size)
    for name, tensor in tensors.items():
        held = ends[name] - (tensor.offset or 0)
        if tensor.dtype is not None and held != tensor.size * tensor.dtype.itemsize:
            raise UserError(
                f"{file}: tensor {name}",
                expected=f"{tensor.size * tensor.dtype.itemsize} bytes for {tensor.shape}",
                found=held,
                fix=storage.AGAIN,
            )
    return tensors


def _npz(file: str, stream: Any, size: int) -> dict[str, Tensor]:
    """Lists an npz; what is stored without compression can be mapped."""
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise UserError(
            file, expected="an npz archive", found=f"{size} bytes that are none", fix=storage.AGAIN
        ) from error
    return {
        info.filename.removesuffix(".npy"): _member(file, stream, archive, info)
        for info in archive.infolist()
    }


def _member(file: str, stream: Any, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Tensor:
    try:
        with archive.open(info) as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0
            if version > (1, 0):
                read = np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(member)
            head = member.tell()
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(
            f"{file}: {info.filename}", expected="an array", found=str(error), fix=storage.AGAIN
        ) from error
    offset = None
    if info.compress_type == zipfile.ZIP_STORED:
        stream.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", stream.read(4))
        offset = info.header_offset + 30 + name + extra + head
    # numpy stores bfloat16, which it does not know, as two bytes without a meaning.
    real = np.dtype(ml_dtypes.bfloat16) if dtype == np.dtype("V2") else dtype
    return Tensor(
        file=file,
        shape=shape,
        dtype=real if real in _DTYPES.values() else None,
        kind=str(real),
        offset=offset,
        member=info.filename,
        order="F" if fortran else "C",
    )


def _truncated(file: str, expected: int, found: int) -> UserError:
    return UserError(file, expected=f"{expected:,} bytes", found=f"{found:,}", fix=storage.AGAIN)
