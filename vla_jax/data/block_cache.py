"""Blocks of bytes kept in memory under a hard budget, fetched ahead by threads.

Time is counted in windows: the plan says which blocks each window needs, reading shows which window
is being read, and what only passed windows needed makes room. Timing decides when a block is
fetched, never what a read returns.
"""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from vla_jax.core.errors import UserError
from vla_jax.runtime.storage import Files

Range = tuple[int, int, int]  # number of the file, first byte, end (exclusive)
_UNPLANNED = -1  # the window of blocks that no window expects; always passed


@dataclasses.dataclass(eq=False)
class _Block:
    window: int
    data: bytes | None = None
    error: BaseException | None = None
    readers: int = 0  # a block with readers, or still in flight, stays

    @property
    def is_idle(self) -> bool:
        """Whether it may go."""
        return self.data is not None and not self.readers


class BlockCache:
    """Serves parts of blocks; safe to read from several threads at once.

    Args:
      files: where the blocks are.
      budget: bytes of blocks held and in flight, never exceeded.
      requests: blocks in flight at once, beside those that readers wait for.

    Attributes:
      held: bytes of the blocks held and in flight.
      peak: the most that `held` has been.
    """

    def __init__(self, files: Files, *, budget: int, requests: int):
        self._files, self._budget, self._requests = files, budget, requests
        self.held = self.peak = 0
        self._blocks: dict[Range, _Block] = {}
        # The same blocks by window, the least recently read first.
        self._windows: dict[int, dict[Range, _Block]] = {}
        self._plan: dict[Range, int] = {}  # block to fetch, in this order -> its window
        self._passed = 0  # windows below are not needed any more
        self._reads: dict[int, tuple[int, int]] = {}  # window -> reads to come, reads in all
        self._in_flight = self._waiting = 0
        self._changed = threading.Condition()
        self._pool: ThreadPoolExecutor | None = None  # from the first read on

    def expect(self, window: int, blocks: Sequence[Range], reads: int) -> None:
        """Plans to fetch the blocks of a window, in this order, as room and requests allow.

        Nothing is fetched before the first read, so that asking for an order costs no traffic.

        Args:
          window: windows are expected and read in rising order, from 0.
          blocks: its blocks, the first to be read first.
          reads: how often they will be read in all. Reads that do not come only keep the blocks
            longer.
        """
        with self._changed:
            self._reads = {w: each for w, each in self._reads.items() if w >= self._passed}
            self._reads[window] = reads, reads
            for block in blocks:
                held = self._blocks.get(block)
                if held is None:
                    self._plan[block] = window
                else:
                    self._move(block, held, window)
            self._fetch_ahead()

    def restart(self) -> None:
        """Drops the plan, before another one that starts anew; keeps what is held."""
        with self._changed:
            self._plan.clear()
            self._reads.clear()
            self._passed = 0
            for block, held in self._blocks.items():
                self._move(block, held, _UNPLANNED)

    def read(self, block: Range, start: int, end: int) -> bytes:
        """Returns the bytes `start` to `end` of the file of `block`, which must hold them.

        Raises:
          UserError: the block cannot be read, or is larger than the budget.
        """
        with self._changed:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._requests, "blocks")
            held = self._blocks.get(block)
            is_new = held is None
            if held is None:
                held, is_new = self._enter(block)
            held.readers += 1
            self._note_read(block, held)
            self._fetch_ahead()
        try:
            if is_new:
                self._fetch(block, held)
            with self._changed:
                self._changed.wait_for(lambda: held.data is not None or held.error is not None)
            if held.data is None:
                raise held.error or AssertionError
            return held.data[start - block[1] : end - block[1]]
        finally:
            with self._changed:
                held.readers -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Drops the plan and waits for what is in flight."""
        with self._changed:
            self._plan.clear()
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    def _enter(self, block: Range) -> tuple[_Block, bool]:
        """Waits for room; returns the entry and whether it still has to be fetched."""
        needed = size(block)
        if needed > self._budget:
            raise UserError(
                f"shard {self._files.paths[block[0]]}, bytes {block[1]} to {block[2]}: "
                "one block is larger than the budget",
                expected=f"at most {self._budget} bytes",
                found=needed,
                fix="Raise the budget of the blocks or lower their frames",
            )
        self._waiting += 1  # nothing is fetched ahead into the room that this reader waits for
        try:
            while (held := self._blocks.get(block)) is None:
                if self._make_room(needed, is_needed=True):
                    return self._add(block, self._plan.pop(block, _UNPLANNED)), True
                self._changed.wait()
        finally:
            self._waiting -= 1
        return held, False

    def _add(self, block: Range, window: int) -> _Block:
        held = self._blocks[block] = _Block(window)
        self._windows.setdefault(window, {})[block] = held
        self.held += size(block)
        self.peak = max(self.peak, self.held)
        return held

    def _drop(self, block: Range) -> None:
        held = self._blocks.pop(block)
        self._leave_window(block, held)
        self.held -= size(block)

    def _move(self, block: Range, held: _Block, window: int) -> None:
        self._leave_window(block, held)
        held.window = window
        self._windows.setdefault(window, {})[block] = held

    def _leave_window(self, block: Range, held: _Block) -> None:
        blocks = self._windows[held.window]
        del blocks[block]
        if not blocks:
            del self._windows[held.window]

    def _make_room(self, room: int, *, is_needed: bool) -> bool:
        """Drops blocks until `room` bytes fit; a block that is needed now may push out others."""
        while self.held + room > self._budget:
            victim = next(self._victims(is_needed), None)
            if victim is None:
                return False
            self._drop(victim)
        return True

    def _victims(self, is_needed: bool) -> Iterator[Range]:
        windows = sorted(self._windows)
        order = [window for window in windows if window < self._passed]
        if is_needed:  # then those of the most distant future
            order += reversed(windows[len(order) :])
        for window in order:
            for block, held in self._windows[window].items():
                if held.is_idle:
                    yield block

    def _note_read(self, block: Range, held: _Block) -> None:
        self._move(block, held, held.window)  # now the most recently read
        window = held.window
        left, total = self._reads.get(window, (0, 0))
        self._reads[window] = left - 1, total
        # Threads read out of order, and one that comes late must still find its block: a window is
        # over with its last read, or when half of the next one is read.
        if left <= 1:
            window += 1
        elif left > total / 2:
            window -= 1
        self._passed = max(self._passed, window)

    def _fetch_ahead(self) -> None:
        while self._pool and self._plan and self._in_flight < self._requests and not self._waiting:
            block, window = next(iter(self._plan.items()))
            if not self._make_room(size(block), is_needed=False):
                return
            del self._plan[block]
            self._in_flight += 1
            self._pool.submit(self._fetch_in_background, block, self._add(block, window))

    def _fetch_in_background(self, block: Range, held: _Block) -> None:
        try:
            self._fetch(block, held)
        finally:
            with self._changed:
                self._in_flight -= 1
                self._fetch_ahead()

    def _fetch(self, block: Range, held: _Block) -> None:
        """Reads a block; one that fails is forgotten, and its readers are told."""
        try:
            held.data = self._files.read(*block)
        except BaseException as error:
            held.error = error
            raise
        finally:
            with self._changed:
                if held.data is None:
                    self._drop(block)
                self._changed.notify_all()


def size(block: Range) -> int:
    """Returns the bytes of a block."""
    return block[2] - block[1]
