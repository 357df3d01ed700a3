"""Block mode, for datasets on object storage: one ranged read brings many images.

The images of one camera lie one after the other in an episode's record. A block is a run of frames
of one episode, and one read per camera brings all its images. Blocks are shuffled in every epoch
and grouped in windows that fit into memory; inside a window the frames are shuffled.
"""

import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np

from vla_jax.core import fields
from vla_jax.core.arrays import Int
from vla_jax.core.errors import UserError
from vla_jax.data.block_cache import BlockCache, Range, size
from vla_jax.data.block_order import BlockOrder, block_firsts, ranges
from vla_jax.data.frame_index import FrameIndex
from vla_jax.runtime.storage import Files

# First and last items of blocks [b] -> file, first byte and end of each stream: int64 [b, s, 3].
Cover = Callable[[np.ndarray, np.ndarray], np.ndarray]

_SAMPLE = 4096  # blocks whose sizes are looked at to choose the window
_REMEMBERED = 1 << 14  # blocks whose place is remembered


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlocksConfig(fields.Checked):
    """How a dataset on object storage is read.

    Attributes:
      frames: frames per block; more mean fewer requests, and fewer episodes in a window.
      budget: bytes of encoded images that a source holds in memory. The order of the examples
        depends on it, as a window is what fits.
      readahead: windows fetched ahead of the present one; all of them share the budget.
      requests: requests in flight at once.
    """

    frames: fields.Size = 16
    budget: Annotated[int, fields.Range(1, 2**60)] = 256 * 2**20
    readahead: Annotated[int, fields.Range(0, 1024)] = 1
    requests: Annotated[int, fields.Range(1, 4096)] = 16


class BlockReader:
    """Shuffled order and cached reads of numbered items, of which neighbours lie together.

    Asking for an order tells the cache what will be read soon.

    Args:
      files: where the items lie.
      runs: int [r], lengths of the runs of items that lie in one stretch of one file.
      cover: tells which bytes hold blocks of items; an item may lie in several streams (cameras),
        each read on its own.
      config: sizes.
      name: of the dataset, for messages.
      history: reads of each stream that an item takes.

    Attributes:
      order: which item comes when.
      cache: what is in memory.

    Raises:
      UserError: the budget does not hold a window of one block.
    """

    def __init__(
        self,
        files: Files,
        runs: Int[np.ndarray, " r"],
        cover: Cover,
        config: BlocksConfig,
        *,
        name: str,
        history: int = 1,
    ):
        self._config, self._cover, self._history = config, cover, history
        self._firsts = block_firsts(runs, config.frames)
        self._window = self._blocks_per_window(name)
        self.order = BlockOrder(self._firsts, window=self._window)
        self.cache = BlockCache(files, budget=config.budget, requests=config.requests)
        self._remembered = functools.lru_cache(maxsize=_REMEMBERED)(
            lambda block: self._ranges(np.array([block]))[0]
        )
        # The windows between these two, for this seed, have been told to the cache.
        self._seed, self._begin, self._end = -1, 0, 0
        self._lock = threading.Lock()

    @property
    def signature(self) -> str:
        """What the order depends on beside the data and the seed."""
        return f"blocks of {self._config.frames}, windows of {self._window}"

    def shuffle(self, start: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns places `start` to `start + count` of the endless order: items and epochs."""
        if count:
            self._expect(start, count, seed)
        return self.order.places(start, count, seed)

    def read(self, i: int, stream: int, start: int, end: int) -> bytes:
        """Returns the bytes `start` to `end` of the file that item `i` is in.

        Args:
          i: number of the item.
          stream: the stream that holds these bytes.
          start: first byte, within what `cover` says of the item's block.
          end: the byte behind the last.

        Raises:
          UserError: the block cannot be read; names the shard and the bytes.
        """
        if start == end:
            return b""
        block = self._remembered(int(self.order.block(i)))[stream]
        return self.cache.read(block, start, end)

    def _expect(self, start: int, count: int, seed: int) -> None:
        """Tells the cache the windows of these places and of the readahead, each once."""
        first, skip = self.order.window(start, seed)
        end = self.order.window(start + count - 1, seed)[0] + 1 + self._config.readahead
        with self._lock:
            is_onward = seed == self._seed and self._begin <= first <= self._end
            if not is_onward:
                self.cache.restart()
                self._seed, self._end = seed, first
            # Loaders may ask a little out of order.
            self._begin = max(self._begin, first - 1) if is_onward else first
            for window in range(self._end, end):
                items = self.order.frames(seed, window)[skip if window == first else 0 :]
                self.cache.expect(window, self._needed(items), self._reads(items))
            self._end = max(self._end, end)

    def _needed(self, items: np.ndarray) -> list[Range]:
        """Returns what must be fetched for these items, in the order of their need."""
        blocks, firsts = np.unique(self.order.block(items), return_index=True)
        ranges = self._ranges(blocks[np.argsort(firsts)])
        return [part for parts in ranges for part in parts if size(part)]

    def _reads(self, items: np.ndarray) -> int:
        """Counts the reads of these items; what is not there is not read."""
        found = self._cover(items, items)
        return self._history * int((found[..., 2] > found[..., 1]).sum())

    def _ranges(self, blocks: np.ndarray) -> list[list[Range]]:
        """Returns the bytes of each stream of each block."""
        found = self._cover(self._firsts[blocks], self._firsts[blocks + 1] - 1)
        return [[(file, start, end) for file, start, end in parts] for parts in found.tolist()]

    def _blocks_per_window(self, name: str) -> int:
        blocks = len(self._firsts) - 1
        sample = np.unique(np.linspace(0, blocks - 1, min(blocks, _SAMPLE)).astype(np.int64))
        mean = sum(size(part) for parts in self._ranges(sample) for part in parts) / len(sample)
        windows = 1 + self._config.readahead
        window = int(self._config.budget / windows / max(mean, 1))
        if not window:
            raise UserError(
                f"dataset {name}: config.loader.blocks.budget",
                expected=f"at least {mean * windows:.0f} bytes, {windows} blocks of this dataset",
                found=self._config.budget,
                fix="Raise it, or lower config.loader.blocks.frames",
            )
        return window


class Blocks:
    """Block mode for the frames of a robot dataset.

    Args:
      index: the dataset.
      frames: int64 [n], the frames of the index that are examples, rising.
      cameras: the image features that are read.
      config: sizes.
      history: steps whose images are read with each frame, itself the last; a block brings those
        before its first frame too.

    Raises:
      UserError: the budget does not hold a window of one block.
    """

    def __init__(
        self,
        index: FrameIndex,
        frames: Int[np.ndarray, " n"],
        cameras: Sequence[str],
        config: BlocksConfig,
        *,
        history: int = 1,
    ):
        self._index, self._frames, self._before = index, frames, history - 1
        self._cameras = tuple(cameras)
        runs = _runs(index.episode[frames], frames, config.frames)
        self.reader = BlockReader(
            index.files, runs, self._cover, config, name=index.name, history=history
        )

    @property
    def signature(self) -> str:
        """What the order depends on beside the data and the seed."""
        return self.reader.signature

    def shuffle(self, start: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns places `start` to `start + count` of the endless order: examples and epochs."""
        return self.reader.shuffle(start, count, seed)

    def image_bytes(self, camera: str, k: int, i: int) -> bytes:
        """Returns the image of frame `k` of the index, exactly as stored.

        Args:
          camera: image feature.
          k: the frame of example `i`, or one of its history.
          i: number of the example.

        Raises:
          UserError: the block cannot be read, or the image is not what was indexed; names the
            shard.
        """
        _, start, length = self._index.span(camera, k)
        image = self.reader.read(i, self._cameras.index(camera), start, start + length)
        return self._index.checked(camera, k, image)

    def _cover(self, firsts: np.ndarray, lasts: np.ndarray) -> np.ndarray:
        index, firsts, lasts = self._index, self._frames[firsts], self._frames[lasts]
        records = index.records[index.episode[firsts]]
        firsts = np.maximum(firsts - self._before, index.starts[index.episode[firsts]])
        frames, counts = ranges(firsts, lasts + 1), lasts + 1 - firsts
        edges = np.cumsum(counts) - counts
        parts = []
        for camera in self._cameras:
            starts, lengths = index.spans(camera)[frames].astype(np.int64).T
            ends = np.maximum.reduceat(np.where(lengths, starts + lengths, 0), edges)
            # A step without an image lies nowhere.
            starts = np.minimum.reduceat(np.where(lengths, starts, np.repeat(ends, counts)), edges)
            parts.append(records[:, 1:2] + np.stack([starts, ends], 1))
        files = np.broadcast_to(records[:, :1], (len(parts), len(records), 1))
        return np.concatenate([files, parts], axis=-1).swapaxes(0, 1)


def _runs(group: np.ndarray, frames: np.ndarray, gap: int) -> np.ndarray:
    """Returns the lengths of the runs of frames of one group without gaps of more than `gap`."""
    is_first = (np.diff(group, prepend=-1) != 0) | (np.diff(frames, prepend=0) > gap)
    return np.diff(np.append(np.flatnonzero(is_first), len(frames)))
