"""Block mode, for datasets on object storage: one ranged read brings many images.

The images of one camera lie one after the other in an episode's record. A block is a run of frames
of one episode, and one read per camera brings all its images. Blocks are shuffled in every epoch
and grouped in windows that fit into memory; inside a window the frames are shuffled.
"""

import dataclasses
import functools
import threading
from collections.abc import Sequence

import numpy as np

from vla_jax.core.arrays import Int
from vla_jax.core.errors import UserError
from vla_jax.data.block_cache import BlockCache, Range, size
from vla_jax.data.block_order import BlockOrder, block_firsts, ranges
from vla_jax.data.frame_index import FrameIndex

_SAMPLE = 4096  # blocks whose sizes are looked at to choose the window


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlocksConfig:
    """How a dataset on object storage is read.

    Attributes:
      frames: frames per block; more mean fewer requests, and fewer episodes in a window.
      budget: bytes of encoded images that a source holds in memory. The order of the examples
        depends on it: a window is what fits.
      readahead: windows fetched ahead of the present one; all of them share the budget.
      requests: requests in flight at once.
    """

    frames: int = 16
    budget: int = 256 * 2**20
    readahead: int = 1
    requests: int = 16

    def __post_init__(self) -> None:
        if min(self.frames, self.budget, self.requests) < 1 or self.readahead < 0:
            raise UserError(
                "config.loader.blocks",
                expected="frames, budget and requests >= 1, readahead >= 0",
                found=f"{self.frames}, {self.budget}, {self.requests}, {self.readahead}",
            )


class Blocks:
    """The order of one dataset's frames in block mode, and their images.

    Asking for an order tells the cache what will be read soon.

    Args:
      index: the dataset.
      frames: int64 [n], the frames of the index that are examples, rising.
      cameras: the image features that are read.
      config: sizes.
      history: steps whose images are read with each frame, itself the last; a block brings those
        before its first frame too.

    Attributes:
      order: which frame comes when.

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
        self._index, self._frames, self._cameras = index, frames, tuple(cameras)
        self._history, self._config = history, config
        self._firsts = block_firsts(_runs(index, frames, config.frames), config.frames)
        self.order = BlockOrder(self._firsts, window=self._blocks_per_window())
        self.cache = BlockCache(index.files, budget=config.budget, requests=config.requests)
        self._range = functools.lru_cache(maxsize=2**14)(
            lambda camera, block: self._ranges(camera, np.array([block]))[0]
        )
        # The windows between these two, for this seed, have been told to the cache.
        self._seed, self._begin, self._end = -1, 0, 0
        self._lock = threading.Lock()

    def shuffle(self, start: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns places `start` to `start + count` of the endless order: examples and epochs."""
        if count:
            self._expect(start, count, seed)
        return self.order.places(start, count, seed)

    def image_bytes(self, camera: str, k: int, i: int) -> bytes:
        """Returns the image of frame `k` of the index, exactly as stored.

        Args:
          camera: image feature.
          k: the frame of example `i`, or one of its history.
          i: number of the example.

        Raises:
          UserError: the block cannot be read; names the shard and the bytes.
        """
        _, offset, length = self._index.span(camera, k)
        if not length:
            return b""
        block = self._range(camera, int(self.order.block(i)))
        return self.cache.read(block, offset, offset + length)

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
                frames = self.order.frames(seed, window)
                self.cache.expect(window, self._needed(frames[skip if window == first else 0 :]))
            self._end = max(self._end, end)

    def _needed(self, frames: np.ndarray) -> list[Range]:
        """Returns what must be fetched for these frames, in the order of their need."""
        blocks, firsts = np.unique(self.order.block(frames), return_index=True)
        blocks = blocks[np.argsort(firsts)]
        by_camera = [self._ranges(camera, blocks) for camera in self._cameras]
        return [part for parts in zip(*by_camera, strict=True) for part in parts if size(part)]

    def _ranges(self, camera: str, blocks: np.ndarray) -> list[Range]:
        """Returns the bytes that hold a camera's images of each block and of its history."""
        index = self._index
        firsts = self._frames[self._firsts[blocks]]
        lasts = self._frames[self._firsts[blocks + 1] - 1]
        firsts = np.maximum(firsts - (self._history - 1), index.starts[index.episode[firsts]])
        shards, offsets, lengths = _spans(index, camera, ranges(firsts, lasts + 1))
        edges = np.cumsum(lasts + 1 - firsts) - (lasts + 1 - firsts)
        # Steps without an image have no place.
        starts = np.minimum.reduceat(np.where(lengths > 0, offsets, np.iinfo(np.int64).max), edges)
        ends = np.maximum.reduceat(np.where(lengths > 0, offsets + lengths, 0), edges)
        starts = np.minimum(starts, ends)
        return list(zip(shards[edges].tolist(), starts.tolist(), ends.tolist(), strict=True))

    def _blocks_per_window(self) -> int:
        blocks = len(self._firsts) - 1
        sample = np.unique(np.linspace(0, blocks - 1, min(blocks, _SAMPLE)).astype(np.int64))
        mean = sum(
            sum(size(part) for part in self._ranges(camera, sample)) for camera in self._cameras
        ) / len(sample)
        window = int(self._config.budget / (1 + self._config.readahead) / max(mean, 1))
        if not window:
            raise UserError(
                f"config.loader.blocks.budget: dataset {self._index.directory} has "
                f"blocks of {mean:.0f} bytes",
                expected=f"at least {mean * (1 + self._config.readahead):.0f}",
                found=self._config.budget,
                fix="Raise it, or lower config.loader.blocks.frames",
            )
        return window


def _spans(index: FrameIndex, camera: str, frames: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns shard, first byte and bytes of the images of frames of the index, int64 each."""
    records = index.records[index.episode[frames]]
    starts, lengths = index.spans(camera)[frames].astype(np.int64).T
    return records[:, 0], records[:, 1] + starts, lengths


def _runs(index: FrameIndex, frames: np.ndarray, gap: int) -> np.ndarray:
    """Returns the lengths of the runs of frames that one read may cover.

    These are the frames of an episode, as long as not more than `gap` steps are left out between
    two; where episodes have one step (web questions), those of a shard.
    """
    is_flat = index.episodes == len(index)
    group = index.records[frames, 0] if is_flat else index.episode[frames]
    is_first = (np.diff(group, prepend=-1) != 0) | (np.diff(frames, prepend=0) > gap)
    return np.diff(np.append(np.flatnonzero(is_first), len(frames)))
