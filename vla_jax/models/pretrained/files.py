"""The tensors of a checkpoint's files: listed at once, read one by one.

Headers are read here rather than by the libraries, because those copy what they read and know
local files only. A tensor of a local file is a view of the mapped file, which takes no memory
until a part of it is used; one on object storage is one ranged read.
"""

import dataclasses
import functools
import json
import math
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import fsspec
import ml_dtypes
import numpy as np

from vla_jax.core.errors import UserError

T = TypeVar("T")

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_SUFFIXES = (".safetensors", ".npz")
_HEADER_LIMIT = 100_000_000  # bytes, that of the safetensors library
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_BACKENDS = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "http": "aiohttp", "https": "aiohttp"}


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
        system, path = _system(self.file)
        order: Any = self.order
        if _is_local(system):
            if not self.size:
                return np.empty(self.shape, self.dtype)
            return np.memmap(path, self.dtype, "r", self.offset, self.shape, order)
        end = self.offset + self.size * self.dtype.itemsize
        data = _reading(self.file, lambda: system.cat_file(path, start=self.offset, end=end))
        if len(data) != end - self.offset:
            raise _truncated(self.file, end, self.offset + len(data))
        return np.frombuffer(data, self.dtype).reshape(self.shape, order=order)

    def _decompressed(self) -> np.ndarray:
        system, path = _system(self.file)

        def read() -> np.ndarray:
            with (
                system.open(path, "rb") as file,
                zipfile.ZipFile(file) as archive,
                archive.open(self.member) as member,
            ):
                return np.lib.format.read_array(member, allow_pickle=False)

        return _reading(self.file, read)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """A checkpoint as it lies on disk.

    Attributes:
      path: where it was asked for.
      tensors: by name.
      config: the content of its config.json; None if there is none.
    """

    path: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] | None


def open_files(path: str) -> Files:
    """Lists the tensors of a file or folder; reads headers only.

    Args:
      path: a folder with `model.safetensors`, with its shards and their index or with one npz; one
        such file; local, on object storage (`gs://`), or on the Hugging Face hub:
        `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`, which is downloaded into its cache.

    Raises:
      UserError: there is no such checkpoint, or a file is incomplete or damaged.
    """
    place = _downloaded(path) if path.startswith("hf://") else path
    system, root = _system(place)
    if root.endswith(_SUFFIXES) and _reading(place, lambda: system.isfile(root)):
        folder, _, name = place.rpartition("/")
        tensors = _headers(place)
        config = _json(f"{folder or '.'}/config.json") if name.endswith(".safetensors") else None
        return Files(path=path, tensors=tensors, config=config)
    if not _reading(place, lambda: system.isdir(root)):
        raise UserError(f"checkpoint {path}", expected="a file or folder", found="nothing there")
    listed = _reading(place, lambda: system.ls(root, detail=False))
    names = sorted(entry.rstrip("/").rpartition("/")[2] for entry in listed)
    place = place.rstrip("/")
    if INDEX in names:
        tensors = _sharded(place, names)
    else:
        chosen = [_SINGLE] if _SINGLE in names else [n for n in names if n.endswith(_SUFFIXES)]
        if len(chosen) != 1:
            raise UserError(
                f"checkpoint {path}",
                expected=f"{_SINGLE}, {INDEX} or one .npz",
                found=", ".join(chosen or names[:20]) or "an empty folder",
                fix="Name the one file" if chosen else None,
            )
        tensors = _headers(f"{place}/{chosen[0]}")
    return Files(path=path, tensors=tensors, config=_json(f"{place}/config.json"))


def _sharded(folder: str, names: list[str]) -> dict[str, Tensor]:
    where = (_json(f"{folder}/{INDEX}") or {}).get("weight_map")
    if not isinstance(where, dict):
        raise UserError(f"{folder}/{INDEX}", expected="a weight_map", found="none")
    shards = sorted(set(where.values()))
    if absent := [shard for shard in shards if shard not in names]:
        raise UserError(
            f"checkpoint {folder}",
            expected=f"the {len(shards)} shards of {INDEX}",
            found=f"{len(absent)} missing: {', '.join(absent[:5])}",
            fix="Download the checkpoint again",
        )
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors |= _headers(f"{folder}/{shard}")
    if lost := sorted(set(where) - set(tensors)):
        raise UserError(
            f"{folder}/{INDEX}", expected="tensors of its shards", found=", ".join(lost[:5])
        )
    return tensors


def _headers(file: str) -> dict[str, Tensor]:
    system, path = _system(file)

    def read() -> dict[str, Tensor]:
        size = system.info(path)["size"]
        with system.open(path, "rb") as stream:
            return (_npz if file.endswith(".npz") else _safetensors)(file, stream, size)

    return _reading(file, read)


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
            file, expected="a safetensors file", found="a damaged header", fix=_AGAIN
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
                fix=_AGAIN,
            )
    return tensors


def _npz(file: str, stream: Any, size: int) -> dict[str, Tensor]:
    """Lists an npz; what is stored without compression can be mapped."""
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise UserError(
            file, expected="an npz archive", found=f"{size} bytes that are none", fix=_AGAIN
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
            f"{file}: {info.filename}", expected="an array", found=str(error), fix=_AGAIN
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


_AGAIN = "Download it again"


def _truncated(file: str, expected: int, found: int) -> UserError:
    return UserError(file, expected=f"{expected:,} bytes", found=f"{found:,}", fix=_AGAIN)


def _json(file: str) -> dict[str, Any] | None:
    """Returns the content of a JSON file, None if there is no such file."""
    system, path = _system(file)
    if not _reading(file, lambda: system.isfile(path)):
        return None
    try:
        content = json.loads(_reading(file, lambda: system.cat_file(path)))
    except ValueError as error:
        raise UserError(file, expected="JSON", found=str(error), fix=_AGAIN) from error
    if not isinstance(content, dict):
        raise UserError(file, expected="a JSON object", found=type(content).__name__)
    return content


@functools.cache
def _backend(scheme: str) -> Any:
    try:
        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:  # not installed; a scheme that nobody knows
        package = _BACKENDS.get(scheme)
        fix = f"Install it with: pip install {package}" if package else None
        raise UserError(f"{scheme}://: {error}", fix=fix) from error


def _system(path: str) -> tuple[Any, str]:
    scheme = path.partition("://")[0] if "://" in path else "file"
    system = _backend(scheme)
    return system, system._strip_protocol(path)


def _is_local(system: Any) -> bool:
    return "file" in ([system.protocol] if isinstance(system.protocol, str) else system.protocol)


def _reading(file: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except UserError:
        raise
    except Exception as error:  # every backend has exceptions of its own
        reason = f"{type(error).__name__} {error}".strip()
        raise UserError(f"{file}: cannot be read ({reason})") from error


def _downloaded(path: str) -> str:
    match = re.fullmatch(r"hf://([^/@]+/[^/@]+?)(?:@([^/]+))?/?", path)
    if match is None:
        raise UserError(path, expected="hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    try:
        import huggingface_hub  # noqa: PLC0415  (optional)
    except ImportError as error:
        raise UserError(
            f"{path}: huggingface_hub is not installed",
            fix="Install it with: pip install huggingface_hub",
        ) from error
    patterns = ["*.json", "*.safetensors", "*.npz", "tokenizer.model"]
    try:
        return huggingface_hub.snapshot_download(
            match[1], revision=match[2], allow_patterns=patterns
        )
    except Exception as error:  # its own for absent, gated, offline; those of its HTTP library
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path}: cannot be downloaded ({reason})",
            fix="Check the name, accept its licence on the hub and log in: hf auth login",
        ) from error
