"""Tensors -> safetensors, one at a time: no more than one of them is in host memory.

The format is a length, a JSON header and the bytes (github.com/huggingface/safetensors). Its own
writer takes all tensors of a file at once, which for a large model is all of the model.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from vla_jax.core.errors import UserError

Dtype = Literal["float32", "bfloat16", "float16"]
SHARD_BYTES = 5 * 10**9
_CODES: dict[str, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor that is still somewhere else.

    Attributes:
      name: in the file.
      shape: its shape.
      read: brings it here; called once.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def save(
    folder: str | os.PathLike[str],
    tensors: Sequence[Tensor],
    dtype: Dtype,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes `model.safetensors`, or numbered files and the index that Hugging Face reads.

    Args:
      folder: an existing directory.
      tensors: what to write, in this order.
      dtype: of all tensors in the files.
      shard_bytes: largest size of the tensors in one file; a larger tensor has a file of its own.

    Raises:
      UserError: a value does not fit the dtype.
    """
    shards = list(_shards(tensors, _size(dtype), shard_bytes))
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [
            f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)
        ]
        total = sum(_count(tensor) for tensor in tensors) * _size(dtype)
        where = {
            tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard
        }
        index = {"metadata": {"total_size": total}, "weight_map": where}
        path = pathlib.Path(folder) / "model.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2) + "\n")
    for name, shard in zip(names, shards, strict=True):
        _write(pathlib.Path(folder) / name, shard, dtype)


def _shards(tensors: Sequence[Tensor], size: int, limit: int) -> Iterator[list[Tensor]]:
    shard: list[Tensor] = []
    room = limit
    for tensor in tensors:
        needed = _count(tensor) * size
        if shard and needed > room:
            yield shard
            shard, room = [], limit
        shard.append(tensor)
        room -= needed
    yield shard


def _write(path: pathlib.Path, tensors: Sequence[Tensor], dtype: Dtype) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + _count(tensor) * _size(dtype)
        header[tensor.name] = {
            "dtype": _CODES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # aligned, as the format asks
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            _bytes(tensor, dtype).tofile(file)


def _bytes(tensor: Tensor, dtype: Dtype) -> np.ndarray:
    value = tensor.read()
    if value.shape != tensor.shape:
        raise ValueError(f"{tensor.name}: announced as {tensor.shape}, is {value.shape}")
    with np.errstate(over="ignore"):  # refused below
        value = np.ascontiguousarray(value.astype(jnp.dtype(dtype)))
    if not np.isfinite(value).all():
        raise UserError(
            f"parameter {tensor.name}",
            expected=f"finite numbers of {dtype}",
            found="others",
            fix="Export with --dtype=bfloat16 or float32" if dtype == "float16" else None,
        )
    return value.reshape(-1).view(np.uint8)


def _count(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64))


def _size(dtype: Dtype) -> int:
    return jnp.dtype(dtype).itemsize
