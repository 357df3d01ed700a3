"""The block cache: the right bytes, each block fetched once, the budget kept, failures told."""

import concurrent.futures
import itertools
import random
import threading
import time

import pytest

from vla_jax.core.errors import UserError
from vla_jax.data.block_cache import BlockCache
from vla_jax.runtime.storage import Files

BLOCK = 100  # bytes


class FakeFiles(Files):
    """Files of predictable bytes that count what is fetched and what is in flight."""

    def __init__(self, latency=0.0):
        super().__init__(["shard-0", "shard-1"])
        self.latency, self.fetched, self.in_flight, self.most = latency, [], 0, 0
        self.failing = set()
        self._lock = threading.Lock()

    def read(self, k, start, end):
        with self._lock:
            self.fetched.append((k, start, end))
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
        time.sleep(self.latency)
        with self._lock:
            self.in_flight -= 1
        if (k, start, end) in self.failing:
            raise UserError(f"shard {self.paths[k]}, bytes {start} to {end}: broken")
        return expected(k, start, end)


def expected(k, start, end):
    return bytes((k + position) % 251 for position in range(start, end))


def block(number):
    return (number % 2, number * BLOCK, (number + 1) * BLOCK)


def window_blocks(window, count=10):
    return [block(window * count + n) for n in range(count)]


def reads(window, seed=0, parts=8):
    """The parts of a window's blocks in a mixed order."""
    found = [
        (whole, whole[1] + part, whole[1] + part + 10)
        for whole in window_blocks(window)
        for part in range(0, parts * 10, 10)
    ]
    random.Random(seed).shuffle(found)
    return found


def run(cache, windows, threads=4, readahead=1, **kwargs):
    """Expects and reads windows as a loader does; returns what was read."""
    found = []
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        told = 0
        for window in range(windows):
            while told <= window + readahead and told < windows:
                cache.expect(told, window_blocks(told), len(reads(told, **kwargs)))
                told += 1
            found += list(pool.map(lambda part: cache.read(*part), reads(window, **kwargs)))
    return found


def wanted(windows, **kwargs):
    return [
        expected(whole[0], start, end)
        for window in range(windows)
        for whole, start, end in reads(window, **kwargs)
    ]


@pytest.mark.parametrize("requests", [1, 7])
@pytest.mark.parametrize("threads", [1, 8])
def test_every_read_gives_its_bytes_and_every_block_is_fetched_once(threads, requests):
    files = FakeFiles(latency=0.001)
    cache = BlockCache(files, budget=20 * BLOCK, requests=requests)
    assert run(cache, 6, threads) == wanted(6)
    assert sorted(files.fetched) == sorted(block(n) for n in range(60))
    cache.close()


@pytest.mark.parametrize("blocks", [1, 3, 11, 20, 1000])
def test_the_budget_is_kept_and_the_bytes_stay_right_whatever_it_is(blocks):
    files = FakeFiles(latency=0.0005)
    cache = BlockCache(files, budget=blocks * BLOCK + 50, requests=4)
    assert run(cache, 3, threads=6, parts=3) == wanted(3, parts=3)
    assert cache.peak <= blocks * BLOCK + 50
    assert files.most <= blocks
    cache.close()
    held = sum(len(entry.data or b"") for entry in cache._blocks.values())
    assert held == cache.held <= cache.peak


def test_threads_that_read_two_windows_at_once_get_the_right_bytes():
    files = FakeFiles(latency=0.0005)
    cache = BlockCache(files, budget=15 * BLOCK, requests=3)
    for window in range(6):
        cache.expect(window, window_blocks(window), 30)
    parts = [part for window in range(6) for part in reads(window, parts=3)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda part: cache.read(*part), parts)) == wanted(6, parts=3)
    assert cache.peak <= 15 * BLOCK
    cache.close()


def test_what_was_fetched_ahead_is_not_fetched_again():
    files = FakeFiles()
    cache = BlockCache(files, budget=20 * BLOCK, requests=4)
    for window in (0, 1):
        cache.expect(window, window_blocks(window), 10)
    cache.read(block(0), 0, 10)
    cache.close()  # waits for what is in flight
    fetched = len(files.fetched)
    assert fetched >= 5
    for whole in files.fetched[:]:
        cache.read(whole, whole[1], whole[2])
    assert len(files.fetched) == fetched


def test_no_traffic_before_the_first_read():
    files = FakeFiles()
    cache = BlockCache(files, budget=20 * BLOCK, requests=4)
    cache.expect(0, window_blocks(0), 10)
    time.sleep(0.02)
    assert files.fetched == []


def test_a_window_that_is_not_over_is_not_pushed_out_by_readahead():
    files = FakeFiles()
    cache = BlockCache(files, budget=12 * BLOCK, requests=4)
    for window in range(4):
        cache.expect(window, window_blocks(window), 20)
    for whole in window_blocks(0):
        cache.read(whole, whole[1], whole[2])
    deadline = time.monotonic() + 5
    while len(files.fetched) < 12 and time.monotonic() < deadline:
        time.sleep(0.001)
    for whole in window_blocks(0):
        cache.read(whole, whole[1], whole[2])
    assert sorted(files.fetched) == sorted(window_blocks(0) + window_blocks(1)[:2])
    cache.close()


@pytest.mark.parametrize("late", [0, 3, 9])
def test_a_thread_that_is_late_finds_the_window_before(late):
    """By up to half a window of the others' reads, however many of them go to one block."""
    files = FakeFiles()
    cache = BlockCache(files, budget=20 * BLOCK, requests=4)
    for window in range(3):
        cache.expect(window, window_blocks(window), 80)
    parts = reads(0)
    for part in parts[: len(parts) - 1 - late] + reads(1)[:39] + parts[len(parts) - 1 - late :]:
        cache.read(*part)
    cache.close()
    assert len(set(files.fetched)) == len(files.fetched)


@pytest.mark.parametrize("over", ["its last read", "half of the next"])
def test_a_window_that_is_over_makes_room(over):
    files = FakeFiles()
    cache = BlockCache(files, budget=20 * BLOCK, requests=4)
    for window in range(3):
        cache.expect(window, window_blocks(window), 80)
    for part in reads(0) if over == "its last read" else reads(0)[1:] + reads(1)[:41]:
        cache.read(*part)
    deadline = time.monotonic() + 5
    while len(files.fetched) < 30 and time.monotonic() < deadline:
        time.sleep(0.001)
    cache.close()
    assert sorted(files.fetched) == sorted(itertools.chain(*map(window_blocks, range(3))))


def test_a_block_that_is_being_read_counts_until_it_is_copied():
    class Watched(bytes):
        def __getitem__(self, part):
            copying.set()
            assert go_on.wait(5)
            return super().__getitem__(part)

    class WatchedFiles(FakeFiles):
        def read(self, k, start, end):
            return Watched(super().read(k, start, end))

    copying, go_on = threading.Event(), threading.Event()
    files = WatchedFiles()
    cache = BlockCache(files, budget=BLOCK, requests=4)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.read, block(0), 0, 10)
        assert copying.wait(5)
        second = pool.submit(cache.read, block(1), 100, 110)
        assert concurrent.futures.wait([second], timeout=0.05).not_done
        assert files.fetched == [block(0)]
        go_on.set()
        assert first.result() == expected(0, 0, 10)
        assert second.result() == expected(1, 100, 110)


def test_unplanned_reads_are_served_and_kept_while_there_is_room():
    files = FakeFiles()
    cache = BlockCache(files, budget=3 * BLOCK, requests=4)
    for whole in (block(5), block(5), block(6), block(7), block(5), block(8), block(5)):
        assert cache.read(whole, whole[1] + 3, whole[1] + 9) == expected(
            whole[0], whole[1] + 3, whole[1] + 9
        )
    # The least recently read made room.
    assert files.fetched == [block(5), block(6), block(7), block(8)]


def test_a_block_at_the_seam_of_two_epochs_is_fetched_once():
    files = FakeFiles()
    cache = BlockCache(files, budget=30 * BLOCK, requests=4)
    cache.expect(0, window_blocks(0), 10)
    cache.expect(1, window_blocks(0)[::-1], 10)
    for _ in range(2):
        for whole in window_blocks(0):
            cache.read(whole, whole[1], whole[2])
    cache.close()
    assert sorted(files.fetched) == sorted(window_blocks(0))


def test_another_order_starts_with_what_is_held():
    files = FakeFiles()
    cache = BlockCache(files, budget=20 * BLOCK, requests=4)
    assert run(cache, 4) == wanted(4)
    cache.restart()
    assert run(cache, 2) == wanted(2)
    cache.close()
    assert len(files.fetched) <= 40 + 20


def test_a_failure_in_the_background_is_told_to_the_reader_who_needs_it():
    files = FakeFiles()
    files.failing = {block(3)}
    cache = BlockCache(files, budget=20 * BLOCK, requests=4)
    cache.expect(0, window_blocks(0), 10)
    for number in (0, 1, 2, 4, 5):
        whole = block(number)
        assert cache.read(whole, whole[1], whole[2]) == expected(*whole)
    whole = block(3)
    for _ in range(2):
        with pytest.raises(UserError, match="shard-1, bytes 300 to 400: broken"):
            cache.read(whole, whole[1], whole[1] + 1)
    files.failing = set()
    assert cache.read(whole, whole[1], whole[2]) == expected(*whole)
    cache.close()
    assert cache.held == 10 * BLOCK


def test_all_readers_of_a_failing_block_are_told():
    files = FakeFiles(latency=0.01)
    files.failing = {block(3)}
    cache = BlockCache(files, budget=20 * BLOCK, requests=4)

    def read(_):
        with pytest.raises(UserError, match="broken"):
            cache.read(block(3), 300, 310)
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    assert cache.held == 0


def test_a_block_larger_than_the_budget_is_refused():
    cache = BlockCache(FakeFiles(), budget=BLOCK - 1, requests=4)
    with pytest.raises(UserError, match="bytes 0 to 100: one block is larger than the budget"):
        cache.read(block(0), 0, 10)
