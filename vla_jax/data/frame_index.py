"""Where every frame of a TFRecord dataset lies: offsets of its images, its numbers in arrays.

The original files stay as they are; one ranged read is one image. The index is made once
(`indexing.ensure`, or `vla-jax index DIR`) and memory-mapped, so that opening it costs one look at
each shard and half a second of checksums at most (`sealed.py`). Every image is compared with the
checksum that its record had when it was indexed.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from vla_jax.actions.statistics import Statistics
from vla_jax.core.arrays import Int
from vla_jax.core.errors import UserError, nearest
from vla_jax.data import checksums, index_files, schema, shard_marks, tfrecord
from vla_jax.data.episode_walk import LeftOut
from vla_jax.data.sealed import DamagedError, Sealed
from vla_jax.data.steps import Column
from vla_jax.runtime import progress, storage

FORMAT = 2  # raised when the files change their meaning; older indexes are made again


class FrameIndex:
    """The steps of all episodes of one split, in file order. Reading is safe from several threads.

    A feature of the episode has the same value at each of its steps. A dataset without `steps`
    (web questions) is read as episodes of one step.

    Args:
      directory: the dataset's version directory, local or remote.
      opened: the folder of the index.
      cache_dir: where to keep what cannot lie beside the index.

    Attributes:
      directory: as given.
      folder: where the files of the index lie.
      cache_dir: as given.
      name: of the dataset, e.g. `bridge_dataset`.
      split: e.g. `train`.
      episodes: number of episodes.
      cameras: names of the image features.
      columns: the indexed features.
      statistics: of each float feature, per number of a step; absent where one is not finite.
      not_finite: of those, (frame, dimension) of the first number that is not.
      left_out: records that could not be read, and are not among the episodes.
      fingerprint: depends on every byte of the data, and on nothing else.
      kept: what was computed from the index, by the folder beside it; each is mapped once.
      files: the shards.
      starts: int64 [e + 1], first frame of each episode, and behind the last.
      records: int64 [e, 3], of each episode's record: shard, first byte, bytes.
    """

    def __init__(
        self,
        directory: schema.Directory,
        opened: Sealed,
        cache_dir: str | os.PathLike[str] | None = None,
    ):
        self.directory, self.folder = os.fspath(directory), opened.folder
        self.cache_dir, self._sealed, manifest = cache_dir, opened, opened.values
        self.kept: dict[pathlib.Path, Sealed] = {}
        self.name: str = manifest["name"]
        self.split: str = manifest["split"]
        self.episodes: int = manifest["episodes"]
        self.fingerprint: str = manifest["fingerprint"]
        self.columns = tuple(Column.from_json(column) for column in manifest["columns"])
        self._roles = {(column.role, column.name) for column in self.columns}
        self._lists = {column.name for column in self.columns if column.is_list}
        self.cameras = self._with_role("image")
        self.statistics: Mapping[str, Statistics] = {
            name: Statistics.from_json(values) for name, values in manifest["statistics"].items()
        }
        self.not_finite: Mapping[str, tuple[int, int]] = {
            name: (frame, dimension) for name, (frame, dimension) in manifest["not_finite"].items()
        }
        self.left_out = tuple(LeftOut(**entry) for entry in manifest["left_out"])
        self.marks = [shard_marks.ShardMark(**shard) for shard in manifest["shards"]]
        self._shards = tuple(mark.name for mark in self.marks)
        self.files = storage.Files([storage.join(directory, name) for name in self._shards])
        self._length: int = manifest["frames"]
        self.starts: Int[np.ndarray, " e1"] = self.load("starts.npy")
        self.records: Int[np.ndarray, "e 3"] = self.load("records.npy")
        self.episode: Int[np.ndarray, " i"] = self.load("episode.npy")

    @classmethod
    def open(
        cls,
        directory: schema.Directory,
        split: str = "train",
        *,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> "FrameIndex":
        """Opens an index that has been made.

        Args:
          directory: the dataset's version directory, local or remote.
          split: a whole split; parts of it are chosen by episode.
          cache_dir: where indexes are kept that cannot lie beside their data.

        Raises:
          UserError: there is none, or a shard has changed since; names the command that makes it.
        """
        index = find(directory, split, cache_dir=cache_dir)
        if index is None:
            schema.read_split(directory, split)  # says what is wrong with a wrong name
            raise UserError(
                f"dataset {directory}, split {split!r}: not indexed",
                fix=f"Run: {command(directory, split, cache_dir)}",
            )
        return index

    def __len__(self) -> int:
        """Number of frames."""
        return self._length

    @property
    def t(self) -> Int[np.ndarray, " i"]:
        """Int32 [i], the step of each frame in its episode."""
        return self.load("t.npy")

    def load(self, part: str) -> np.ndarray:
        """Returns an array file in the folder of the index, mapped.

        Raises:
          DamagedError: the file, or another of the index, is gone or damaged.
        """
        return self._sealed.load(part)

    def image_bytes(self, camera: str, i: int) -> bytes:
        """Returns the encoded image of frame `i`, exactly as stored.

        Raises:
          UserError: no such camera, the shard cannot be read, or the image is not what it was
            when it was indexed.
        """
        shard, start, length = self.span(camera, i)
        return self.checked(camera, i, self.files.read(shard, start, start + length))

    def checked(self, camera: str, i: int, image: bytes) -> bytes:
        """Returns an encoded image of frame `i` that was read, if it is what was indexed.

        Raises:
          UserError: it is not.
        """
        before, after = self.load(f"images/{camera}.sums.npy")[i].tolist()
        if not checksums.is_sound(image, before, after):
            raise UserError(
                f"{self.place(i)}: {camera} has changed since it was indexed (wrong checksum)",
                fix=f"{tfrecord.AGAIN}, or if the data are meant to be new: "
                f"{command(self.directory, self.split, self.cache_dir)} --verify",
            )
        return image

    def span(self, camera: str, i: int) -> tuple[int, int, int]:
        """Returns shard, first byte and bytes of an image of frame `i`."""
        shard, base, _ = self.records[self.episode[i]].tolist()
        start, length = self.spans(camera)[i].tolist()
        return shard, base + start, length

    def spans(self, camera: str) -> Int[np.ndarray, "i 2"]:
        """Returns uint32 [i, 2] of all images: first byte counted from the record's, and bytes."""
        self._require(camera, "image")
        return self.load(f"images/{camera}.npy")

    def array(self, name: str) -> np.ndarray:
        """Returns a numeric feature of all frames, read-only and memory-mapped.

        Returns:
          [i, ...], of the feature's own shape: float32, int32, bool, or int64.

        Raises:
          UserError: it is not in the index.
        """
        self._require(name, "array")
        return self._all_frames(f"arrays/{name}.npy")

    def text(self, name: str, i: int) -> str:
        """Returns the text of frame `i`; of a list of texts the first.

        Raises:
          UserError: the feature is not in the index, or the list is empty.
        """
        texts = self.texts(name, i)
        if not texts:
            raise UserError(f"{self.place(i)}: {name!r} is an empty list of texts")
        return texts[0]

    def texts(self, name: str, i: int) -> list[str]:
        """Returns all texts of frame `i`: one, or those of a list such as `answers`."""
        if not self._is_list(name):
            return [self._spell(name, int(self.text_ids(name)[i]))]
        ends = self.load(f"texts/{name}.rows.npy")
        ids = self.load(f"texts/{name}.ids.npy")[ends[i - 1] if i else 0 : ends[i]]
        return [self._spell(name, number) for number in ids.tolist()]

    def text_ids(self, name: str) -> Int[np.ndarray, " i"]:
        """Returns int32 [i], the number of each frame's text in `distinct_texts`.

        Raises:
          UserError: the feature is not in the index, or is a list of texts.
        """
        if self._is_list(name):
            raise UserError(f"dataset {self.directory}: {name!r} is a list of texts in each frame")
        return self._all_frames(f"texts/{name}.ids.npy")

    def distinct_texts(self, name: str) -> list[str]:
        """Returns every distinct text of a feature, in the order of their first frames."""
        self._require(name, "text")
        return [self._spell(name, k) for k in range(len(self.load(f"texts/{name}.ends.npy")))]

    def place(self, i: int) -> str:
        """Says where frame `i` lies, for messages: dataset, shard, episode and step."""
        episode = int(self.episode[i])
        shard = self._shards[self.records[episode, 0]]
        return f"{self.name} shard {shard} episode {episode} step {i - int(self.starts[episode])}"

    def has(self, name: str, role: str) -> bool:
        """Whether a feature is indexed in a role: `image`, `array` or `text`."""
        return (role, name) in self._roles

    def _with_role(self, role: str) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.role == role)

    def _require(self, name: str, role: str) -> None:
        if not self.has(name, role):
            names = self._with_role(role)
            raise UserError(
                f"dataset {self.directory}: no {role} {name!r} in its index",
                expected=f"one of {', '.join(names)}" if names else None,
                fix=nearest(name, names),
            )

    def _is_list(self, name: str) -> bool:
        self._require(name, "text")
        return name in self._lists

    def _all_frames(self, part: str) -> np.ndarray:
        """Loads one row per frame; what is the same in all of them is kept once."""
        rows = self.load(part)
        return (
            rows if len(rows) == len(self) else np.broadcast_to(rows, (len(self), *rows.shape[1:]))
        )

    def _spell(self, name: str, number: int) -> str:
        ends = self.load(f"texts/{name}.ends.npy")
        whole = self.load(f"texts/{name}.utf8.npy")
        return whole[ends[number - 1] if number else 0 : ends[number]].tobytes().decode()


def find(
    directory: schema.Directory,
    split: str = "train",
    *,
    cache_dir: str | os.PathLike[str] | None = None,
) -> FrameIndex | None:
    """Opens the index of a split if there is a sound one of this format; notes damaged ones.

    Raises:
      UserError: a shard has changed since it was made.
    """
    for folder in index_files.candidates(directory, split, cache_dir):
        try:
            opened = Sealed.open(folder)
            if opened is None or opened.values.get("format") != FORMAT:
                continue
            index = FrameIndex(directory, opened, cache_dir)
        except DamagedError as error:
            progress.note(f"{error} It is not used")
            continue
        shard_marks.check(
            index.directory,
            index.files,
            schema.read_split(directory, split).shards,
            index.marks,
            command(directory, split, cache_dir),
        )
        return index
    return None


def command(
    directory: schema.Directory, split: str, cache_dir: str | os.PathLike[str] | None
) -> str:
    """Spells the command that makes the index of a split."""
    words: Sequence[str] = ["vla-jax", "index", os.fspath(directory)]
    if split != "train":
        words = [*words, f"--split={split}"]
    if cache_dir is not None:
        words = [*words, f"--cache-dir={os.fspath(cache_dir)}"]
    return " ".join(words)
