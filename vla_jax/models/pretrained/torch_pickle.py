"""The `data.pkl` of PyTorch's files: a pickled dict of tensors by name.

Unpickling calls whatever a file names, so here it is a machine with the few instructions that a
dict of tensors takes, which knows three names beside the storages, and functions of ours for them.
A file that wants more is refused, by the name of what it wants.
Source: torch:torch/_utils.py, torch/serialization.py.
"""

import dataclasses
import io
import math
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vla_jax.models.pretrained.tensors import BFLOAT16

FLOATS = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": BFLOAT16,
}
# The size of a number of those that are no floats: tensors that can be listed, not read.
OTHERS = {
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


class RefusedError(Exception):
    """What a file wants and does not get."""


class _Dict(dict):
    """Stands for OrderedDict; what a module writes beside its tensors (`_metadata`) is dropped."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """The bytes of tensors: their kind, the member that holds them, how many numbers they are."""

    kind: str
    member: str
    count: int


@dataclasses.dataclass(frozen=True)
class Strided:
    """A tensor in a storage: offset, size and stride, in numbers."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def load(data: bytes) -> Any:
    """Returns what `data.pkl` says: of a sound file, Strided by name.

    Raises:
      RefusedError: it says more than tensors.
      Exception: whatever damaged instructions lead to.
    """
    return _Machine(io.BytesIO(data)).load()


def dump(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns `data.pkl` of arrays of floats in C order, the n-th in storage n: protocol 2."""
    kinds = {dtype: kind for kind, dtype in FLOATS.items()}
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


def _build(machine: Any) -> None:
    """BUILD: what would be set on an object is dropped; only dicts have it here."""
    machine.stack.pop()
    if not isinstance(machine.stack[-1], _Dict):
        raise RefusedError("an object with a state")


def _unknown(code: int) -> Callable[[Any], None]:
    def refuse(_: Any) -> None:
        raise RefusedError(f"pickle instruction {bytes([code])!r}")

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
        if known is None and module == "torch" and (name in FLOATS or name in OTHERS):
            return name
        if known is None:
            raise RefusedError(f"{module}.{name}")
        return known

    def persistent_load(self, pid: Any) -> Storage:
        match pid:
            case ("storage", str(kind), str(member), str(), int(count)) if count >= 0:
                return Storage(kind, member, count)
        raise RefusedError("a reference that is no storage")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Strided:
    """Stands for `torch._utils._rebuild_tensor_v2`."""
    numbers = (offset, *size, *stride)
    is_sound = all(type(n) is int and 0 <= n < 2**63 for n in numbers)
    if not isinstance(storage, Storage) or not is_sound or len(size) != len(stride):
        raise ValueError("a tensor without a storage, offset, size and stride")
    return Strided(storage, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *_: Any) -> Strided:
    """Stands for `torch._utils._rebuild_parameter`."""
    if not isinstance(data, Strided):
        raise ValueError("a parameter without a tensor")
    return data


_GLOBALS: Mapping[str, Any] = {
    "collections.OrderedDict": _Dict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}
