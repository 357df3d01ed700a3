"""Makes the frame index of a dataset: one pass over its shards that decodes nothing."""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from vla_jax.core.errors import UserError, listed, nearest
from vla_jax.data import (
    frame_index,
    fresh_folder,
    index_files,
    schema,
    sealed,
    tfrecord,
    version_directories,
)
from vla_jax.data.episode_walk import LeftOut, OnCorrupt, Walk
from vla_jax.data.frame_index import FrameIndex
from vla_jax.data.index_writer import IndexWriter
from vla_jax.data.schema import Feature
from vla_jax.data.shard_marks import ShardMark
from vla_jax.data.steps import Column
from vla_jax.runtime import progress, storage

Role = Literal["image", "array", "text"]
OnProgress = Callable[[str, int, int], None]

_SMALL = 64  # numbers per step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an index shall have.

    Attributes:
      images: image features; None is every one with 8 bits and three channels, so no depth.
      arrays: numeric features; None is every one of at most 64 numbers.
      texts: text features, or integer features that are codes of UTF-8; None is every text.
    """

    images: tuple[str, ...] | None = None
    arrays: tuple[str, ...] | None = None
    texts: tuple[str, ...] | None = None

    def columns(self, directory: schema.Directory) -> tuple[Column, ...]:
        """Looks the features up in a dataset.

        Raises:
          UserError: the dataset has no such feature, or it is of another kind.
        """
        features = schema.read_schema(directory)
        columns = []
        asked: dict[Role, tuple[str, ...] | None] = {
            "image": self.images,
            "array": self.arrays,
            "text": self.texts,
        }
        for role, names in asked.items():
            if names is None:
                chosen = [features[name] for name in small(features, role)]
            else:
                chosen = [_look_up(features, name, role, directory) for name in names]
            columns += [Column(feature, role) for feature in dict.fromkeys(chosen)]
        has_steps = any(feature.per_step for feature in features.values())
        if has_steps and not any(column.feature.per_step for column in columns):
            raise UserError(
                f"dataset {directory}: nothing to index",
                expected="at least one feature steps/...",
                found=", ".join(column.name for column in columns) or "none",
            )
        return tuple(columns)


def ensure(
    directory: schema.Directory,
    split: str = "train",
    wanted: Wanted = Wanted(),
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    on_corrupt: OnCorrupt = "error",
    on_progress: OnProgress | None = None,
) -> FrameIndex:
    """Opens the index of a split; makes it when there is none or it lacks a feature.

    Args:
      directory: the dataset's version directory, local or remote.
      split: a whole split; parts of it are chosen by episode.
      wanted: what it shall have at least.
      cache_dir: where to write it; beside the data without.
      on_corrupt: whether a record that cannot be read is an error, or is left out (`skip`) and
        named in `left_out` of the index.
      on_progress: is called with (what, bytes done, bytes in all) while it is made.

    Raises:
      UserError: a missing feature; a damaged, changed or missing shard; an index that left out
        what may not be; no permission to write.
    """
    columns = wanted.columns(directory)
    while True:  # until no other process has made another one meanwhile
        index = frame_index.find(directory, split, cache_dir=cache_dir)
        if index is not None:
            if all(index.has(column.name, column.role) for column in columns):
                return _allowed(index, on_corrupt, cache_dir)
            columns = _union(columns, index)
        with contextlib.suppress(_OvertakenError):
            return _build(directory, split, columns, cache_dir, on_corrupt, on_progress, keep=True)


class _OvertakenError(Exception):
    """Another process has made an index with features that this one lacks."""


def build(
    directory: schema.Directory,
    split: str = "train",
    wanted: Wanted = Wanted(),
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    on_corrupt: OnCorrupt = "error",
    on_progress: OnProgress | None = None,
) -> FrameIndex:
    """Makes the index of a split, whether or not there is one. Arguments as in `ensure`."""
    columns = wanted.columns(directory)
    return _build(directory, split, columns, cache_dir, on_corrupt, on_progress)


def _build(
    directory: schema.Directory,
    split: str,
    columns: Sequence[Column],
    cache_dir: str | os.PathLike[str] | None,
    on_corrupt: OnCorrupt,
    on_progress: OnProgress | None,
    keep: bool = False,
) -> FrameIndex:
    """Makes an index; with `keep` not in the place of one that has more features."""
    found = schema.read_split(directory, split)
    name, version = version_directories.title(directory)
    files = storage.Files([storage.join(directory, shard) for shard in found.shards])
    marks = [ShardMark.of(files, k) for k in range(len(files))]
    folder = index_files.candidates(directory, split, cache_dir)[0]
    begins, left_out = list(itertools.accumulate((mark.size for mark in marks), initial=0)), []
    in_cache = cache_dir is not None
    with (
        fresh_folder.replacing(folder, is_cache=in_cache) as fresh,
        IndexWriter(fresh, columns) as writer,
    ):
        for item in Walk(directory, found, files, marks, columns, on_corrupt=on_corrupt):
            if isinstance(item, LeftOut):
                left_out.append(item.to_json())
                progress.note(f"left out: {item.reason}")
                continue
            writer.append(item)
            if on_progress is not None:
                done = begins[item.shard] + item.start + item.length + tfrecord.FOOTER
                on_progress(f"index {name}:{split}", done, begins[-1])
        manifest = {
            "format": frame_index.FORMAT,
            "name": name,
            "version": version,
            "split": split,
            "shards": [mark.to_json() for mark in marks],
            "left_out": left_out,
            **writer.finish(f"dataset {directory}, split {split!r}"),
        }
        sealed.seal(fresh, manifest)
        now = frame_index.find(directory, split, cache_dir=cache_dir) if keep else None
        if now is not None and len(_union(columns, now)) > len(columns):
            raise _OvertakenError
    return FrameIndex.open(directory, split, cache_dir=cache_dir)


def _allowed(
    index: FrameIndex, on_corrupt: OnCorrupt, cache_dir: str | os.PathLike[str] | None
) -> FrameIndex:
    """Returns an index if it lacks nothing, or may lack something.

    Raises:
      UserError: it was made with `skip` and left something out; names that.
    """
    if not index.left_out:
        return index
    what = f"dataset {index.directory}, split {index.split!r}: its index left out what is damaged"
    reasons = listed((left.reason.rstrip(".") for left in index.left_out), most=2)
    if on_corrupt == "skip":
        progress.note(f"{what}: {reasons}")
        return index
    raise UserError(
        what,
        found=reasons,
        fix="Mend the data and run: "
        f"{frame_index.command(index.directory, index.split, cache_dir)} --verify; or train "
        "without them: --config.loader.on_corrupt=skip",
    )


def in_megabytes(on_progress: OnProgress | None) -> OnProgress:
    """Turns reports in bytes into reports in megabytes, a part of one counted whole."""

    def report(what: str, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(f"{what}, MB", -(-done // 10**6), -(-total // 10**6))

    return report


def small(features: Mapping[str, Feature], role: Role) -> tuple[str, ...]:
    """Returns the features that are indexed in a role when none are named."""
    return tuple(name for name, feature in features.items() if _is_small(feature, role))


def _is_small(feature: Feature, role: Role) -> bool:
    size = feature.size
    if role == "image":
        is_rgb = len(feature.shape) == 3 and feature.shape[-1] == 3
        return feature.kind == "image" and feature.dtype == "uint8" and is_rgb
    if role == "array":
        return feature.kind in ("float", "int") and size is not None and 0 < size <= _SMALL
    is_list = feature.shape == (None,) and not feature.per_step
    return feature.kind == "text" and (feature.shape == () or is_list)


def _look_up(
    features: dict[str, Feature], name: str, role: Role, directory: schema.Directory
) -> Feature:
    """Returns the feature that was asked for in a role."""
    if name not in features:
        raise UserError(
            f"dataset {directory}: no feature {name!r}",
            expected=f"one of {', '.join(sorted(features))}",
            fix=nearest(name, list(features))
            or "Name the right feature in the dataset's adapter (vla_jax/data/robots)",
        )
    feature = features[name]
    kinds = {"image": ("image",), "array": ("float", "int"), "text": ("text", "int")}[role]
    is_list = feature.kind == "text" and feature.shape == (None,) and not feature.per_step
    if feature.kind not in kinds or (role != "image" and feature.size is None and not is_list):
        raise UserError(
            f"dataset {directory}: feature {name!r} cannot be read as {role}",
            expected=f"a feature of kind {' or '.join(kinds)} and of fixed shape",
            found=f"{feature.kind} of shape {feature.shape} and dtype {feature.dtype!r}",
        )
    return feature


def _union(columns: Sequence[Column], index: FrameIndex) -> tuple[Column, ...]:
    """Returns the columns and those that the index has beyond them."""
    return (*columns, *(column for column in index.columns if column not in columns))
