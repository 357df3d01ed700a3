"""One tensor of a file, read when it is asked for.

A tensor of a local file is a view of the mapped file, which takes no memory until a part of it is
used; one on object storage is one ranged read.
"""

import dataclasses
import functools
import math
import zipfile
import zlib
from typing import Any

import ml_dtypes
import numpy as np

from vla_jax.core.errors import UserError
from vla_jax.models.pretrained import storage

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checksum:
    """What an archive says of the bytes of a member that is not compressed.

    Attributes:
      offset: their first byte in the file.
      length: how many they are.
      crc: their CRC32.
    """

    offset: int
    length: int
    crc: int


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
      checksum: of the bytes that hold it, where the file has one that is not checked otherwise.
    """

    file: str
    shape: tuple[int, ...]
    dtype: np.dtype | None
    kind: str
    offset: int | None
    member: str = ""
    order: str = "C"
    checksum: Checksum | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def read(self) -> np.ndarray:
        """Returns the values, read only; of an npz, its checksum is verified by the first call.

        Raises:
          UserError: it is not of floats, is damaged, or cannot be read.
        """
        if self.dtype is None:
            raise UserError(f"{self.file}", expected="tensors of floats", found=self.kind)
        if self.offset is None:
            return self._decompressed().view(self.dtype)
        if self.checksum is not None and self._crc != self.checksum.crc:
            raise UserError(
                f"{self.file}: {self.member}",
                expected=f"CRC32 {self.checksum.crc:08x}, as the archive says",
                found=f"{self._crc:08x}: the file is corrupted",
                fix=storage.AGAIN,
            )
        system, path = storage.system(self.file)
        order: Any = self.order
        if not self.size:
            return np.empty(self.shape, self.dtype)
        if storage.is_local(system):
            return np.memmap(path, self.dtype, "r", self.offset, self.shape, order)
        data = self._fetched(self.offset, self.size * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype).reshape(self.shape, order=order)

    @functools.cached_property
    def _crc(self) -> int:
        """The CRC32 of the bytes that the checksum is of."""
        assert self.checksum is not None
        system, path = storage.system(self.file)
        start, length = self.checksum.offset, self.checksum.length
        if storage.is_local(system):
            return zlib.crc32(np.memmap(path, np.uint8, "r", start, (length,)).data)
        return zlib.crc32(self._fetched(start, length))

    def _fetched(self, start: int, length: int) -> bytes:
        """Reads bytes of a file on object storage."""
        system, path = storage.system(self.file)
        end = start + length
        data = storage.reading(self.file, lambda: system.cat_file(path, start=start, end=end))
        if len(data) != length:
            raise truncated(self.file, end, start + len(data))
        return data

    def _decompressed(self) -> np.ndarray:
        """Reads a compressed member; the archive's reader verifies its checksum."""
        system, path = storage.system(self.file)

        def read() -> np.ndarray:
            with (
                system.open(path, "rb") as file,
                zipfile.ZipFile(file) as archive,
                archive.open(self.member) as member,
            ):
                return np.lib.format.read_array(member, allow_pickle=False)

        return storage.reading(self.file, read)


def truncated(file: str, expected: int, found: int) -> UserError:
    """Returns the error that a file has fewer bytes, or more, than it says."""
    return UserError(file, expected=f"{expected:,} bytes", found=f"{found:,}", fix=storage.AGAIN)
