"""What a TFDS dataset directory says of itself: its features and the shards of its splits."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from vla_jax.core import paths
from vla_jax.core.errors import UserError, nearest
from vla_jax.data import metadata
from vla_jax.data.metadata import NOT_THE_VERSION, Directory
from vla_jax.runtime import storage

Kind = Literal["image", "float", "int", "text", "other"]

STEPS = "steps/"
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
_NUMBERED = re.compile(r"-(\d{5,})-of-(\d{5,})$")
_ENCODINGS = ("none", "bytes", "zlib")


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
    tree, where = metadata.features(directory), storage.join(directory, "features.json")
    return {feature.name: feature for feature in _flatten(tree, "", (), where)}


def read_splits(directory: Directory) -> dict[str, Split]:
    """Lists the splits of a TFDS version directory, from `dataset_info.json` or by file name.

    Raises:
      UserError: shards are missing, or are not TFRecords.
    """
    present = storage.names(directory)
    if "dataset_info.json" not in present:
        return _splits_by_name(directory, present)
    info = metadata.info(directory)
    if info.file_format != "tfrecord":
        raise UserError(
            f"dataset {directory}",
            expected="TFRecord shards",
            found=f"fileFormat {info.file_format!r} in dataset_info.json",
            fix="Generate it with file_format='tfrecord', or tfds convert_format it",
        )
    splits = {}
    for entry in info.splits:
        if not entry.shard_lengths:  # they are optional: take what matches
            by_name = _splits_by_name(directory, present).get(entry.name)
            splits[entry.name] = by_name or Split(entry.name, (), None)
            continue
        names = _shard_names(info.name, entry)
        missing = sorted(set(names) - set(present))
        if missing:
            raise _incomplete(
                directory,
                entry.name,
                f"{len(names)} shards, as dataset_info.json says",
                len(names) - len(missing),
                missing[0],
            )
        lengths = tuple(map(int, entry.shard_lengths))
        splits[entry.name] = Split(entry.name, names, lengths)
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
            fix=nearest(name, list(splits)) if splits else NOT_THE_VERSION,
        )
    return splits[name]


def _flatten(
    node: metadata.Node, name: str, outer: tuple[int | None, ...], where: str
) -> Iterator[Feature]:
    """Yields the features below a node of `features.json`; `outer` are sizes of lists around it.

    Raises:
      UserError: a name is no path below a folder, or a dtype does not exist.
    """
    if node.features_dict is not None:
        for key, value in node.features_dict.features.items():
            inner = f"{name}/{key}" if name else key
            child = metadata.node(value, f"{where}, feature {inner[:200]!r}")
            yield from _flatten(child, inner, outer, where)
    elif node.sequence is not None:
        around = () if name == STEPS[:-1] else _shape([node.sequence.length])
        child = metadata.node(node.sequence.feature, f"{where}, feature {name[:200]!r}")
        yield from _flatten(child, name, outer + around, where)
    else:
        paths.below(".", name, f"{where}, feature {name[:200]!r}")  # it names files of the index
        encoding = "none" if node.tensor is None else node.tensor.encoding
        kind, shape, dtype = _leaf(node)
        if kind in ("float", "int") and not _exists(dtype):
            raise UserError(
                f"{where}, feature {name!r}: dtype", expected="one of numpy's", found=repr(dtype)
            )
        is_unread = encoding != "none" and (kind == "text" or dtype == "bfloat16")
        if is_unread or encoding not in _ENCODINGS:
            kind = "other"
        yield Feature(name, kind, outer + shape, dtype, name.startswith(STEPS), encoding)


def _leaf(node: metadata.Node) -> tuple[Kind, tuple[int | None, ...], str]:
    """Returns kind, shape and dtype of one leaf of `features.json`."""
    if node.image is not None:
        return "image", _shape(node.image.shape.dimensions), node.image.dtype
    if node.text is not None:
        return "text", (), "string"
    if node.class_label is not None:
        return "int", (), "int64"
    if node.bounding_box is not None:
        return "float", (4,), "float32"
    if node.tensor is None:
        return "other", (), ""
    shape, dtype = _shape(node.tensor.shape.dimensions), node.tensor.dtype
    for start, kind in _KINDS.items():
        if dtype.startswith(start):
            return kind, shape, dtype
    return "other", shape, dtype


def _exists(dtype: str) -> bool:
    try:
        np.dtype(dtype)
    except TypeError:
        return dtype == "bfloat16"
    return True


def _shape(sizes: Sequence[int | str]) -> tuple[int | None, ...]:
    return tuple(size if size >= 0 else None for size in map(int, sizes))


def _shard_names(dataset: str, entry: metadata.SplitInfo) -> tuple[str, ...]:
    """Spells the file names of one split out of its template."""
    # A template may name folders; the shards lie in this one.
    template, count = (entry.template or _TEMPLATE).rsplit("/", 1)[-1], len(entry.shard_lengths)
    names = []
    for shard in range(count):
        name, number, total = template, f"{shard:05d}", f"{count:05d}"
        for field, value in (
            ("DATASET", dataset),
            ("SPLIT", entry.name),
            ("FILEFORMAT", "tfrecord"),
            ("SHARD_INDEX", number),
            ("NUM_SHARDS", total),
            ("SHARD_X_OF_Y", f"{number}-of-{total}"),
        ):
            name = name.replace(f"{{{field}}}", value)
        names.append(name)
    return tuple(names)


def _splits_by_name(directory: Directory, present: list[str]) -> dict[str, Split]:
    """Finds the shards of each split by their names.

    Raises:
      UserError: they do not have all of the numbers that their names say there are.
    """
    shards: dict[str, list[str]] = {}
    for name in present:
        prefix, found, _ = name.partition(".tfrecord")
        if found and "-" in prefix:
            shards.setdefault(prefix.rpartition("-")[2], []).append(name)
    for split, names in shards.items():
        _check_numbers(directory, split, names)
    return {name: Split(name, tuple(files), None) for name, files in shards.items()}


def _check_numbers(directory: Directory, split: str, names: list[str]) -> None:
    for name in names:
        match = _NUMBERED.search(name)
        if match is None:
            continue
        start, count = name[: match.start()], int(match[2])
        for number in range(min(count, len(names) + 1)):
            wanted = f"{start}-{number:05d}-of-{match[2]}"
            if wanted not in names:
                raise _incomplete(
                    directory, split, f"{count} shards, as {name} says", len(names), wanted
                )


def _incomplete(
    directory: Directory, split: str, expected: str, found: int, first: str
) -> UserError:
    return UserError(
        f"dataset {directory}, split {split!r}",
        expected=expected,
        found=f"{found}; the first that is missing is {first}",
        fix="Download the missing shards",
    )
