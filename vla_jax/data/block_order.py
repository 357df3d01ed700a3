"""The order of block mode: shuffled blocks of frames in windows, shuffled frames in each window."""

import functools

import numpy as np

from vla_jax.core.arrays import Int
from vla_jax.data.stream import mix_bits, uniform


class BlockOrder:
    """The endless order of n frames: shuffled blocks in windows, shuffled frames in each window.

    A pure function of the arguments and the seed; every epoch holds every frame once. What is
    remembered is the present epoch's order of blocks, 8 bytes each, and the present windows.

    Args:
      firsts: int64 [blocks + 1], first frame of every block, and the number of frames.
      window: blocks per window, at most.
    """

    def __init__(self, firsts: Int[np.ndarray, " edges"], *, window: int):
        self.firsts = firsts
        self.windows = -(-self.blocks // window)
        self._edges = np.arange(self.windows + 1) * self.blocks // self.windows
        self._epoch = functools.lru_cache(maxsize=2)(self._shuffle_blocks)
        self.frames = functools.lru_cache(maxsize=4)(self._shuffle_frames)

    def __len__(self) -> int:
        """Number of frames."""
        return int(self.firsts[-1])

    @property
    def blocks(self) -> int:
        """Number of blocks; block b holds the frames `firsts[b]` to `firsts[b + 1]`."""
        return len(self.firsts) - 1

    def places(self, start: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns places `start` to `start + count`: int64 [count] frames, and their epochs."""
        found, epochs = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        end = start + count
        while start < end:
            window, skip = self.window(start, seed)
            frames = self.frames(seed, window)[skip : skip + end - start]
            found.append(frames)
            epochs.append(np.full(len(frames), window // self.windows))
            start += len(frames)
        return np.concatenate(found), np.concatenate(epochs)

    def window(self, place: int, seed: int) -> tuple[int, int]:
        """Returns the window of a place, counted over all epochs, and the place inside it."""
        epoch, inside = divmod(place, len(self))
        _, starts = self._epoch(seed, epoch)
        window = int(np.searchsorted(starts, inside, side="right")) - 1
        return epoch * self.windows + window, inside - int(starts[window])

    def _shuffle_blocks(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the order of the blocks in an epoch, and the first place of each window."""
        order = _permutation(self.blocks, seed, epoch, 0)
        places = np.concatenate([[0], np.cumsum(np.diff(self.firsts)[order])])
        return order, places[self._edges[:-1]]

    def _shuffle_frames(self, seed: int, window: int) -> np.ndarray:
        epoch, inside = divmod(window, self.windows)
        order, _ = self._epoch(seed, epoch)
        blocks = order[self._edges[inside] : self._edges[inside + 1]]
        frames = ranges(self.firsts[blocks], self.firsts[blocks + 1])
        lengths = np.diff(self.firsts)[blocks]
        return frames[_spread(lengths, seed, epoch, inside + 1)]

    def block(self, frames: np.ndarray | int) -> np.ndarray:
        """Returns the block of each frame."""
        return np.searchsorted(self.firsts, frames, side="right") - 1


def ranges(starts: Int[np.ndarray, " r"], ends: Int[np.ndarray, " r"]) -> Int[np.ndarray, " n"]:
    """Returns the integers from each start to its end (exclusive), one range after the other."""
    lengths = ends - starts
    return np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)


def block_firsts(runs: Int[np.ndarray, " r"], block: int) -> Int[np.ndarray, " edges"]:
    """Cuts runs of frames into blocks of at most `block`, none of which crosses two runs.

    Args:
      runs: lengths of the runs, in order.
      block: frames per block; the last of a run may have fewer.

    Returns:
      int64 [blocks + 1], first frame of every block, and the number of frames.
    """
    counts = -(-runs // block)
    firsts = np.repeat(np.cumsum(runs) - runs, counts)
    inside = ranges(np.zeros_like(counts), counts)
    return np.append(firsts + inside * block, runs.sum())


# Hashes and stable sorts below: the orders are those of the key in any version of any library.
def _permutation(count: int, *key: int) -> np.ndarray:
    """Returns 0..count-1 in an order that depends on the key."""
    return np.argsort(mix_bits(*key, np.arange(count)), kind="stable")


def _spread(lengths: np.ndarray, *key: int) -> np.ndarray:
    """Returns 0..n-1, the members of blocks of these lengths, in an order that depends on the key.

    A block's j-th member in random order comes at a random time between j and j + 1 parts of the
    whole, so that a batch has few frames of one block: fewer than if drawn without regard to it.
    """
    block = np.repeat(np.arange(len(lengths)), lengths)
    member = np.arange(len(block))
    bits = mix_bits(*key, member)
    turn = np.empty_like(member)
    turn[np.lexsort((bits, block))] = ranges(np.zeros_like(lengths), lengths)
    times = (turn + uniform(bits, 1)[:, 0]) / lengths[block]
    return np.argsort(times, kind="stable")
