"""The JSON that TFDS writes beside the shards of a dataset, as types.

Source of both formats: tensorflow_datasets, `core/proto/feature.proto` and `dataset_info.proto`,
written by protobuf's JSON printer, which spells 64-bit integers as strings.
"""

import os
from typing import Annotated, Any, TypeVar

import msgspec

from vla_jax.core import json_file
from vla_jax.core.errors import UserError
from vla_jax.runtime import storage

T = TypeVar("T")

Directory = str | os.PathLike[str]

NOT_THE_VERSION = "Name the folder of the version, e.g. bridge_dataset/1.0.0"
_AGAIN = "Copy, download or generate the dataset's metadata again"
# Of an axis, -1 where it varies; and of records.
_Size = (
    Annotated[int, msgspec.Meta(ge=-1, le=2**31)]
    | Annotated[str, msgspec.Meta(pattern=r"^(-1|[0-9]{1,9})$")]
)
_Count = (
    Annotated[int, msgspec.Meta(ge=0, le=2**40)]
    | Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,12}$")]
)
# They become parts of paths.
_Name = Annotated[str, msgspec.Meta(pattern=r"^(?!\.\.?$)[^/\\\x00]+$", max_length=200)]


class _Shape(msgspec.Struct, frozen=True):
    dimensions: list[_Size] = []


class _Image(msgspec.Struct, frozen=True):
    shape: _Shape = _Shape()
    dtype: str = "uint8"


class _Tensor(msgspec.Struct, frozen=True):
    shape: _Shape = _Shape()
    dtype: str = ""
    encoding: str = "none"


class _Sequence(msgspec.Struct, frozen=True):
    feature: Any
    length: _Size = -1


class _FeaturesDict(msgspec.Struct, frozen=True):
    features: dict[str, Any] = {}


class Node(msgspec.Struct, frozen=True):
    """A node of the tree of features, its children unchecked; leaves lack the first two."""

    features_dict: _FeaturesDict | None = msgspec.field(default=None, name="featuresDict")
    sequence: _Sequence | None = None
    image: _Image | None = None
    tensor: _Tensor | None = None
    text: dict[str, Any] | None = None
    class_label: dict[str, Any] | None = msgspec.field(default=None, name="classLabel")
    bounding_box: dict[str, Any] | None = msgspec.field(default=None, name="boundingBox")


class SplitInfo(msgspec.Struct, frozen=True):
    """A split in `dataset_info.json`."""

    name: _Name
    shard_lengths: list[_Count] = msgspec.field(default_factory=list, name="shardLengths")
    template: str = msgspec.field(default="", name="filepathTemplate")


class DatasetInfo(msgspec.Struct, frozen=True):
    """`dataset_info.json`."""

    name: _Name
    version: _Name = ""
    file_format: str = msgspec.field(default="tfrecord", name="fileFormat")
    splits: list[SplitInfo] = []


def features(directory: Directory) -> Node:
    """Reads `features.json`.

    Raises:
      UserError: there is no such file, or it is not what TFDS writes; names the field.
    """
    tree = _read(directory, "features.json", dict[str, Any])
    if "featuresDict" not in tree:
        raise UserError(
            f"dataset {directory}, features.json",
            expected="a top level 'featuresDict', as TFDS 4.5 and later write it",
            found=", ".join(map(repr, sorted(tree))) or "nothing",
            fix="Write the dataset's metadata again with tfds.folder_dataset.write_metadata",
        )
    return node(tree, storage.join(directory, "features.json"))


def node(value: Any, where: str) -> Node:
    """Checks a node of the tree.

    Args:
      value: JSON values.
      where: file and feature, for messages.

    Raises:
      UserError: it is not what TFDS writes; names the field.
    """
    return json_file.convert(value, Node, where, fix=_AGAIN)


def info(directory: Directory) -> DatasetInfo:
    """Reads `dataset_info.json`.

    Raises:
      UserError: as `features`.
    """
    return _read(directory, "dataset_info.json", DatasetInfo)


def _read(directory: Directory, name: str, kind: type[T]) -> T:
    path = storage.join(directory, name)
    if not storage.exists(path):
        raise UserError(
            f"dataset {directory}",
            expected=f"a TFDS version directory with {name}",
            found="no such file",
            fix=NOT_THE_VERSION,
        )
    return json_file.decode(storage.contents(path), kind, path, fix=_AGAIN)
