"""Tensors as `torch.save` writes them, read and written without PyTorch.

Source: torch:torch/serialization.py. A file is a zip archive: `data.pkl`, a dict of tensors by
name (`torch_pickle.py`), and the bytes of each tensor's storage as a member.
"""

import math
import os
import pathlib
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from vla_jax.core import files
from vla_jax.core.errors import UserError
from vla_jax.models.pretrained import archive, storage, torch_pickle
from vla_jax.models.pretrained.tensors import Checksum, Tensor
from vla_jax.models.pretrained.torch_pickle import FLOATS, OTHERS, Strided

_DATA_LIMIT = 100_000_000  # bytes of data.pkl, which has a few hundred for each tensor
_ALIGNMENT = 64  # of storages, as PyTorch has it


def tensors(file: str, stream: Any, size: int) -> dict[str, Tensor]:
    """Lists the tensors of a file; reads `data.pkl` only.

    Args:
      file: its name.
      stream: its bytes.
      size: how many they are.

    Raises:
      UserError: it is damaged, or holds anything but tensors by name.
    """
    opened = archive.open_archive(file, stream, size, "a file of torch.save (PyTorch 1.6 on)")
    held: dict[str, zipfile.ZipInfo] = {}
    for info in archive.members(file, stream, opened):
        if info.filename in held:
            raise UserError(f"{file}: two members are called {info.filename}", fix=storage.AGAIN)
        held[info.filename] = info
    roots = [name.removesuffix("data.pkl") for name in held if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise archive.damaged(file, "data.pkl", "one such member", len(roots))
    order = _read(file, opened, held.get(f"{roots[0]}byteorder"), b"little")
    if order != b"little":
        raise archive.damaged(file, "byteorder", "little", order)
    data = _read(file, opened, held[f"{roots[0]}data.pkl"])
    places: dict[str, Checksum] = {}
    out = {}
    for name, value in _unpickled(file, data).items():
        member = f"{roots[0]}data/{value.storage.member}"
        if member not in held or held[member].compress_type != zipfile.ZIP_STORED:
            found = "compressed" if member in held else "not there"
            raise archive.damaged(file, f"tensor {name}", f"its bytes as {member}", found)
        if member not in places:
            places[member] = archive.stored(file, stream, opened, held[member])
        out[name] = _placed(file, name, value, member, places[member])
    return out


def _read(
    file: str, opened: zipfile.ZipFile, info: zipfile.ZipInfo | None, default: bytes = b""
) -> bytes:
    """Returns the bytes of a small member, whose CRC32 the archive's reader verifies."""
    if info is None:
        return default
    if info.file_size > _DATA_LIMIT:
        raise archive.damaged(file, info.filename, f"at most {_DATA_LIMIT:,} bytes", info.file_size)
    try:
        return opened.read(info)
    except Exception as error:  # zipfile's, zlib's, EOFError, RuntimeError for an encrypted one
        found = str(error) or type(error).__name__
        raise archive.damaged(file, info.filename, "a member", found) from error


def _placed(file: str, name: str, value: Strided, member: str, place: Checksum) -> Tensor:
    """Checks a tensor against the bytes of its storage."""
    kind = value.storage.kind
    dtype = FLOATS.get(kind)
    width = dtype.itemsize if dtype else OTHERS[kind]
    what = f"{file}: tensor {name}"
    if place.length != value.storage.count * width:
        raise UserError(
            what,
            expected=f"{value.storage.count * width:,} bytes of {kind}",
            found=f"{place.length:,}",
            fix=storage.AGAIN,
        )
    if value.offset + math.prod(value.size) > value.storage.count:
        raise UserError(
            what,
            expected=f"at most {value.storage.count:,} numbers, as its storage has",
            found=f"{value.size} from {value.offset:,} on",
            fix=storage.AGAIN,
        )
    order = next((o for o in "CF" if _is_packed(value.size, value.stride, o)), None)
    if order is None:
        raise UserError(
            what,
            expected="numbers that lie one behind the other",
            found=f"strides {value.stride} of {value.size}",
            fix="Save it after .contiguous()",
        )
    return Tensor(
        file=file,
        shape=value.size,
        dtype=dtype,
        kind=kind.removesuffix("Storage"),
        offset=place.offset + value.offset * width,
        member=member,
        order=order,
        checksum=place,
    )


def _is_packed(size: tuple[int, ...], stride: tuple[int, ...], order: str) -> bool:
    """Tells whether strides are those of an array without gaps in C or Fortran order."""
    expected = 1
    axes = list(zip(size, stride, strict=True))
    for length, step in reversed(axes) if order == "C" else axes:
        if length > 1 and step != expected:
            return False
        expected *= length
    return True


def _unpickled(file: str, data: bytes) -> dict[str, Strided]:
    """Returns the dict of tensors that `data.pkl` says."""
    try:
        value = torch_pickle.load(data)
    except torch_pickle.RefusedError as error:
        raise UserError(
            file,
            expected="tensors by name and nothing else",
            found=str(error),
            fix="Save the state_dict alone, or as safetensors",
        ) from error
    except Exception as error:  # whatever damaged instructions lead to
        found = f"{type(error).__name__} {error}".strip()
        raise archive.damaged(file, "data.pkl", "a pickled dict of tensors", found) from error
    if not isinstance(value, dict):
        raise UserError(file, expected="a dict of tensors by name", found=type(value).__name__)
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Strided):
            raise UserError(
                f"{file}: {name}", expected="a tensor by name", found=type(tensor).__name__
            )
    return value


def save(path: str | os.PathLike[str], values: Mapping[str, np.ndarray]) -> None:
    """Writes what `torch.load(path, weights_only=True)` reads as a dict of tensors.

    Args:
      path: the file, which appears whole.
      values: arrays of floats by name.
    """
    path = pathlib.Path(path)
    arrays = {name: np.asarray(value, order="C") for name, value in values.items()}
    growing = files.partial(path)
    try:
        with zipfile.ZipFile(growing, "w") as opened:
            _write(opened, f"{path.stem}/data.pkl", torch_pickle.dump(arrays))
            _write(opened, f"{path.stem}/byteorder", b"little")
            for number, array in enumerate(arrays.values()):
                data = array.reshape(-1).view(np.uint8).data
                _write(opened, f"{path.stem}/data/{number}", data)
            _write(opened, f"{path.stem}/version", b"3\n")
        os.replace(growing, path)
    finally:
        growing.unlink(missing_ok=True)


def _write(opened: zipfile.ZipFile, name: str, data: Any) -> None:
    """Adds a member whose bytes begin at a multiple of the alignment."""
    info = zipfile.ZipInfo(name)  # of 1980: equal tensors are equal files
    assert opened.fp is not None
    room = -(opened.fp.tell() + 34 + len(name)) % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", room) + b"Z" * room
    opened.writestr(info, data)
