"""The files of a checkpoint: one, or a folder with one, or with shards and their index."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vla_jax.core.errors import UserError
from vla_jax.models.pretrained import storage
from vla_jax.models.pretrained.tensors import Tensor, tensors_of

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_SUFFIXES = (".safetensors", ".npz")


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
    listed = storage.reading(place, lambda: system.ls(root, detail=False))
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
        tensors = tensors_of(f"{place}/{chosen[0]}")
    return Files(path=path, tensors=tensors, config=storage.json_object(f"{place}/config.json"))


def _sharded(folder: str, names: list[str]) -> dict[str, Tensor]:
    where = (storage.json_object(f"{folder}/{INDEX}") or {}).get("weight_map")
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
        tensors |= tensors_of(f"{folder}/{shard}")
    if lost := sorted(set(where) - set(tensors)):
        raise UserError(
            f"{folder}/{INDEX}", expected="tensors of its shards", found=", ".join(lost[:5])
        )
    return tensors
