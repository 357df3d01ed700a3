"""The files of a checkpoint: one, or a folder with one, or with shards and their index."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, TypedDict

from vla_jax.core import json_file, paths
from vla_jax.core.errors import UserError, listed
from vla_jax.models.pretrained import storage
from vla_jax.models.pretrained.headers import tensors_of
from vla_jax.models.pretrained.tensors import Tensor

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_SUFFIXES = (".safetensors", ".npz")


class _Index(TypedDict):
    weight_map: dict[str, str]  # tensor -> shard


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


def open_files(path: str | os.PathLike[str]) -> Files:
    """Lists the tensors of a file or folder; reads headers only.

    As `transformers` does, it takes a whole file where a folder has one, whatever an index says
    that an earlier save in shards left behind.

    Args:
      path: a folder with `model.safetensors`, with its shards and their index or with one npz; one
        such file; local, on object storage (`gs://`), or on the Hugging Face hub:
        `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`, which is downloaded into its cache.

    Raises:
      UserError: there is no such checkpoint, or a file is incomplete or damaged.
    """
    path = paths.expand(path)
    place = storage.downloaded(path) if path.startswith("hf://") else path
    system, root = storage.system(place)
    if root.endswith(_SUFFIXES) and storage.reading(place, lambda: system.isfile(root)):
        folder, _, name = place.rpartition("/")
        tensors = tensors_of(place)
        config = (
            storage.json_object(f"{folder or '.'}/config.json")
            if name.endswith(".safetensors")
            else None
        )
        return Files(path=path, tensors=tensors, config=config)
    if not storage.reading(place, lambda: system.isdir(root)):
        raise UserError(f"checkpoint {path}", expected="a file or folder", found="nothing there")
    held = storage.reading(place, lambda: system.ls(root, detail=False))
    names = sorted(entry.rstrip("/").rpartition("/")[2] for entry in held)
    place = place.rstrip("/")
    if "adapter_config.json" in names and _SINGLE not in names:
        raise UserError(
            f"checkpoint {path}",
            expected="a model",
            found="adapters of peft alone",
            fix="Merge them into their model with peft's merge_and_unload and save that",
        )
    if INDEX in names and _SINGLE not in names:
        tensors = _sharded(place, names)
    else:
        chosen = [_SINGLE] if _SINGLE in names else [n for n in names if n.endswith(_SUFFIXES)]
        if len(chosen) != 1:
            raise UserError(
                f"checkpoint {path}",
                expected=f"{_SINGLE}, {INDEX} or one .npz",
                found=listed(chosen or names) or "an empty folder",
                fix="Name the one file" if chosen else None,
            )
        tensors = tensors_of(f"{place}/{chosen[0]}")
    return Files(path=path, tensors=tensors, config=storage.json_object(f"{place}/config.json"))


def _sharded(folder: str, names: list[str]) -> dict[str, Tensor]:
    index = f"{folder}/{INDEX}"
    content = json_file.convert(storage.json_object(index), _Index, index, fix=storage.AGAIN)
    where = content["weight_map"]
    shards = sorted(set(where.values()))
    for shard in shards:
        paths.below(folder, shard, f"{index}, field weight_map")
    if absent := [shard for shard in shards if shard not in names]:
        raise UserError(
            f"checkpoint {folder}",
            expected=f"the {len(shards)} shards of {INDEX}",
            found=f"{len(absent)} missing: {listed(absent)}",
            fix="Download the checkpoint again",
        )
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        found = tensors_of(f"{folder}/{shard}")
        if twice := sorted(found.keys() & tensors.keys()):
            raise UserError(
                f"checkpoint {folder}",
                expected="each tensor in one shard",
                found=f"{listed(twice)} in {shard} and {tensors[twice[0]].file}",
            )
        tensors |= found
    if lost := sorted(set(where) - set(tensors)):
        raise UserError(index, expected="tensors of its shards", found=listed(lost))
    return tensors
