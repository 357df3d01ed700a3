"""What a TFDS dataset directory says of itself: its features and the shards of its splits.

Source of both formats: tensorflow_datasets, `core/proto/feature.proto` and `dataset_info.proto`.
"""

import dataclasses
import json
import os
import posixpath
from collections.abc import Iterator
from typing import Any, Literal

from vla_jax.core.errors import UserError, nearest
from vla_jax.runtime import storage

Directory = str | os.PathLike[str]
Kind = Literal["image", "float", "int", "text", "other"]

STEPS = "steps/"
_VERSION_FILES = ("features.json", "dataset_info.json")
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_KINDS: dict[str, Kind] = {  # by the beginning of the dtype
    "float": "float",
    "bfloat": "float",
    "int": "int",
    "uint": "int",
    "bool": "int",
    "string": "text",
    "object": "text",
}
_NOT_THE_VERSION = "Name the folder of the version, e.g. bridge_dataset/1.0.0"
_DEEPEST = 3  # parent / name / config / version


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature, named as in the records.

    Attributes:
      name: with slashes, e.g. `steps/observation/image`.
      kind: `image` (encoded), `float`, `int` (bool included), `text`, or `other`: what the index
        does not read (audio, video, optional values).
      shape: of one value; None is an unknown size. A list of texts has shape (None,).
      dtype: as the dataset declares it, e.g. `float32`, `bool`, `uint8`, `string`.
      per_step: whether every step has one, or the whole episode.
      encoding: of numbers: `none` (a plain list), or `bytes` or `zlib` of each array's memory.
    """

    name: str
    kind: Kind
    shape: tuple[int | None, ...]
    dtype: str
    per_step: bool
    encoding: str = "none"

    @property
    def size(self) -> int | None:
        """How many numbers one value has; None if that varies."""
        size = 1
        for length in self.shape:
            if length is None:
                return None
            size *= length
        return size


@dataclasses.dataclass(frozen=True)
class Split:
    """The shards of one split.

    Attributes:
      name: e.g. `train`.
      shards: file names in the directory, in order.
      shard_lengths: records per shard; None where the dataset does not say.
    """

    name: str
    shards: tuple[str, ...]
    shard_lengths: tuple[int, ...] | None


def read_schema(directory: Directory) -> dict[str, Feature]:
    """Reads `features.json` of a TFDS version directory: name -> feature.

    Raises:
      UserError: there is no such file, or it is not in TFDS' format.
    """
    tree = _read_json(directory, "features.json")
    if "featuresDict" not in tree:
        raise UserError(
            f"dataset {directory}, features.json",
            expected="a top level 'featuresDict', as TFDS 4.5 and later write it",
            found=", ".join(map(repr, sorted(tree))) or "nothing",
            fix="Write the dataset's metadata again with tfds.folder_dataset.write_metadata",
        )
    return {feature.name: feature for feature in _flatten(tree, "", ())}


def read_splits(directory: Directory) -> dict[str, Split]:
    """Lists the splits of a TFDS version directory, from `dataset_info.json` or by file name.

    Raises:
      UserError: shards are missing, or are not TFRecords.
    """
    present = storage.names(directory)
    if "dataset_info.json" not in present:
        return _splits_by_name(present)
    info = _read_json(directory, "dataset_info.json")
    kind = info.get("fileFormat", "tfrecord")
    if kind != "tfrecord":
        raise UserError(
            f"dataset {directory}",
            expected="TFRecord shards",
            found=f"fileFormat {kind!r} in dataset_info.json",
            fix="Generate it with file_format='tfrecord', or tfds convert_format it",
        )
    splits = {}
    for entry in info.get("splits", ()):
        lengths = tuple(map(int, entry.get("shardLengths", ())))
        names = _shard_names(info["name"], kind, entry, present, len(lengths))
        missing = sorted(set(names) - set(present))
        if missing:
            raise UserError(
                f"dataset {directory}, split {entry['name']!r}",
                expected=f"{len(names)} shards, as dataset_info.json says",
                found=f"{len(names) - len(missing)}; the first that is missing is {missing[0]}",
                fix="Download the missing shards",
            )
        splits[entry["name"]] = Split(entry["name"], names, lengths)
    return splits


def read_split(directory: Directory, name: str) -> Split:
    """Returns one split.

    Raises:
      UserError: there is none of that name, or as `read_splits`.
    """
    splits = read_splits(directory)
    if name not in splits:
        raise UserError(
            f"dataset {directory}: no split {name!r}",
            expected=f"one of {', '.join(splits)}" if splits else "shards *-SPLIT.tfrecord-*",
            found=None if splits else "none",
            fix=nearest(name, list(splits)) if splits else _NOT_THE_VERSION,
        )
    return splits[name]


def title(directory: Directory) -> tuple[str, str]:
    """Returns the name and the version of a dataset, from its metadata or its path."""
    version, name = _last_parts(directory)
    if storage.exists(storage.join(directory, "dataset_info.json")):
        info = _read_json(directory, "dataset_info.json")
        return info.get("name", name), info.get("version", version)
    return name, version


def find_datasets(directory: Directory) -> list[str]:
    """Finds the version directories in a directory of datasets, or the directory itself.

    Raises:
      UserError: there is none within three levels (name, config, version).
    """
    found = list(_version_directories(os.fspath(directory), _DEEPEST))
    if not found:
        raise UserError(
            f"directory {directory}",
            expected="a TFDS version directory (with features.json), or a parent of some",
            found="none within three levels",
        )
    return found


def _version_directories(directory: str, depth: int) -> Iterator[str]:
    names = storage.names(directory)
    if set(_VERSION_FILES) & set(names):
        yield directory
    elif depth:
        for name in names:
            path = storage.join(directory, name)
            # A remote listing does not say what is a folder: what has a suffix is a file.
            is_folder = os.path.isdir(path) or (storage.is_remote(path) and _may_be_folder(name))
            if is_folder and not name.startswith("."):
                yield from _version_directories(path, depth - 1)


def _may_be_folder(name: str) -> bool:
    suffix = posixpath.splitext(name)[1]
    return not suffix or suffix[1:].isdigit()  # 1.0.0 is a version


def _last_parts(directory: Directory) -> tuple[str, str]:
    path = os.fspath(directory)
    parts = (
        path.rstrip("/").split("/")
        if storage.is_remote(path)
        else os.path.abspath(path).split(os.sep)
    )
    version = parts[-1]
    return version, parts[-2] if len(parts) > 1 and parts[-2] else version


def _flatten(node: dict[str, Any], name: str, outer: tuple[int | None, ...]) -> Iterator[Feature]:
    """Yields the features below a node of `features.json`; `outer` are sizes of lists around it."""
    if "featuresDict" in node:
        for key, child in node["featuresDict"].get("features", {}).items():
            yield from _flatten(child, f"{name}/{key}" if name else key, outer)
    elif "sequence" in node:
        length = int(node["sequence"].get("length", -1))
        around = () if name == STEPS[:-1] else (length if length >= 0 else None,)
        yield from _flatten(node["sequence"]["feature"], name, outer + around)
    else:
        encoding = node.get("tensor", {}).get("encoding", "none")
        kind, shape, dtype = _leaf(node)
        if encoding != "none" and (kind == "text" or dtype == "bfloat16"):
            kind = "other"
        yield Feature(name, kind, outer + shape, dtype, name.startswith(STEPS), encoding)


def _leaf(node: dict[str, Any]) -> tuple[Kind, tuple[int | None, ...], str]:
    """Returns kind, shape and dtype of one leaf of `features.json`."""
    if "image" in node:
        return "image", _shape(node["image"]), node["image"].get("dtype", "uint8")
    if "text" in node:
        return "text", (), "string"
    if "classLabel" in node:
        return "int", (), "int64"
    if "boundingBox" in node:
        return "float", (4,), "float32"
    tensor = node.get("tensor", {})
    dtype = tensor.get("dtype", "")
    for start, kind in _KINDS.items():
        if dtype.startswith(start):
            return kind, _shape(tensor), dtype
    return "other", _shape(tensor), dtype


def _shape(node: dict[str, Any]) -> tuple[int | None, ...]:
    sizes = map(int, node.get("shape", {}).get("dimensions", ()))
    return tuple(size if size >= 0 else None for size in sizes)


def _shard_names(
    dataset: str, kind: str, entry: dict[str, Any], present: list[str], count: int
) -> tuple[str, ...]:
    """Spells the file names of one split out of its template."""
    template = entry.get("filepathTemplate") or _TEMPLATE
    if not count:  # lengths are optional: take what matches
        found = _splits_by_name(present).get(entry["name"])
        return found.shards if found else ()
    # A template may name folders; the shards lie in this one.
    template = template.rsplit("/", 1)[-1]
    return tuple(
        template.format(
            DATASET=dataset,
            SPLIT=entry["name"],
            FILEFORMAT=kind,
            SHARD_INDEX=f"{shard:05d}",
            NUM_SHARDS=f"{count:05d}",
            SHARD_X_OF_Y=f"{shard:05d}-of-{count:05d}",
        )
        for shard in range(count)
    )


def _splits_by_name(present: list[str]) -> dict[str, Split]:
    shards: dict[str, list[str]] = {}
    for name in present:
        prefix, found, _ = name.partition(".tfrecord")
        if found and "-" in prefix:
            shards.setdefault(prefix.rpartition("-")[2], []).append(name)
    return {name: Split(name, tuple(files), None) for name, files in shards.items()}


def _read_json(directory: Directory, name: str) -> dict[str, Any]:
    path = storage.join(directory, name)
    if not storage.exists(path):
        raise UserError(
            f"dataset {directory}",
            expected=f"a TFDS version directory with {name}",
            found="no such file",
            fix=_NOT_THE_VERSION,
        )
    try:
        value = json.loads(storage.contents(path))
    except ValueError as error:
        raise UserError(f"file {path}: not JSON ({error})", fix="Download it again") from error
    if not isinstance(value, dict):
        raise UserError(f"file {path}", expected="a JSON object", found=type(value).__name__)
    return value
