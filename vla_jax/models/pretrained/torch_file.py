"""Tensors as `torch.save` writes them, read and written without PyTorch.

Source: torch:torch/serialization.py, torch/_utils.py. A file is a zip archive: `data.pkl`, a
pickled dict of tensors by name, and the bytes of each tensor's storage as a member. Unpickling
calls whatever a file names, so here it is a machine with the few instructions that a dict of
tensors takes, which knows three names beside the storages, and functions of ours for them. A file
that wants more is refused, by the name of what it wants.
"""

import dataclasses
import io
import math
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vla_jax.core import files
from vla_jax.core.errors import UserError
from vla_jax.models.pretrained import archive, storage
from vla_jax.models.pretrained.tensors import BFLOAT16, Checksum, Tensor

_DATA_LIMIT = 100_000_000  # bytes of data.pkl, which says 80 per tensor
_ALIGNMENT = 64  # of storages, as PyTorch has it
_FLOATS = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": BFLOAT16,
}
# The size of a number of those that are no floats: tensors that can be listed, not read.
_OTHERS = {
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "ShortStorage": 2,
    "IntStorage": 4,
    "LongStorage": 8,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}
_OPCODES = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP),
    *(pickle.MEMOIZE, pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT, pickle.LONG1),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
    *(pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.BINPERSID, pickle.REDUCE),
)


class _RefusedError(Exception):
    """What a file wants and does not get."""


class _Dict(dict):
    """Stands for OrderedDict; what a module writes beside its tensors (`_metadata`) is dropped."""


@dataclasses.dataclass(frozen=True)
class _Storage:
    """The bytes of tensors: their kind, the member that holds them, how many numbers they are."""

    kind: str
    member: str
    count: int


@dataclasses.dataclass(frozen=True)
class _Strided:
    """A tensor in a storage: offset, size and stride, in numbers."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


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


def _placed(file: str, name: str, value: _Strided, member: str, place: Checksum) -> Tensor:
    """Checks a tensor against the bytes of its storage."""
    kind = value.storage.kind
    dtype = _FLOATS.get(kind)
    width = dtype.itemsize if dtype else _OTHERS[kind]
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


def _unpickled(file: str, data: bytes) -> dict[str, _Strided]:
    """Returns the dict of tensors that `data.pkl` says."""
    try:
        value = _Machine(io.BytesIO(data)).load()
    except _RefusedError as error:
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
        if not isinstance(name, str) or not isinstance(tensor, _Strided):
            raise UserError(
                f"{file}: {name}", expected="a tensor by name", found=type(tensor).__name__
            )
    return value


def _build(machine: Any) -> None:
    """BUILD: what would be set on an object is dropped; only dicts have it here."""
    machine.stack.pop()
    if not isinstance(machine.stack[-1], _Dict):
        raise _RefusedError("an object with a state")


def _unknown(code: int) -> Callable[[Any], None]:
    def refuse(_: Any) -> None:
        raise _RefusedError(f"pickle instruction {bytes([code])!r}")

    return refuse


class _Machine(pickle._Unpickler):
    """Unpickles dicts of tensors. Python's own, as the one in C makes room for what a file says."""

    dispatch = (
        {code: _unknown(code) for code in range(256)}
        | {code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES}
        | {pickle.BUILD[0]: _build}
    )

    def find_class(self, module: str, name: str) -> Any:
        known = _GLOBALS.get(f"{module}.{name}")
        if known is None and module == "torch" and (name in _FLOATS or name in _OTHERS):
            return name
        if known is None:
            raise _RefusedError(f"{module}.{name}")
        return known

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", str(kind), str(member), str(), int(count)) if count >= 0:
                return _Storage(kind, member, count)
        raise _RefusedError("a reference that is no storage")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Strided:
    """Stands for `torch._utils._rebuild_tensor_v2`."""
    numbers = (offset, *size, *stride)
    is_sound = all(type(n) is int and 0 <= n < 2**63 for n in numbers)
    if not isinstance(storage, _Storage) or not is_sound or len(size) != len(stride):
        raise ValueError("a tensor without a storage, offset, size and stride")
    return _Strided(storage, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *_: Any) -> _Strided:
    """Stands for `torch._utils._rebuild_parameter`."""
    if not isinstance(data, _Strided):
        raise ValueError("a parameter without a tensor")
    return data


_GLOBALS: Mapping[str, Any] = {
    "collections.OrderedDict": _Dict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}


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
            _write(opened, f"{path.stem}/data.pkl", _pickled(arrays))
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


def _pickled(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns `data.pkl`: protocol 2, a storage for each tensor."""
    kinds = {dtype: kind for kind, dtype in _FLOATS.items()}
    out = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.MARK
    parts = [out]
    for number, (name, array) in enumerate(arrays.items()):
        strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        parts += [
            _text(name),
            *(_global("torch._utils", "_rebuild_tensor_v2"), pickle.MARK),
            *(pickle.MARK, _text("storage"), _global("torch", kinds[array.dtype])),
            *(_text(str(number)), _text("cpu"), _number(array.size), pickle.TUPLE),
            *(pickle.BINPERSID, _number(0), _numbers(array.shape), _numbers(strides)),
            *(pickle.NEWFALSE, _global("collections", "OrderedDict")),
            *(pickle.EMPTY_TUPLE, pickle.REDUCE, pickle.TUPLE, pickle.REDUCE),
        ]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])


def _text(value: str) -> bytes:
    data = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(data)]) + data


def _numbers(values: Any) -> bytes:
    return pickle.MARK + b"".join(map(_number, values)) + pickle.TUPLE
