"""The order of block mode: a shuffle by blocks and windows that loses and repeats nothing."""

import numpy as np
import pytest

from vla_jax.data import stream
from vla_jax.data.block_order import BlockOrder, block_firsts

SEED = 3


def ragged_order(seed, window=7, block=5):
    runs = np.random.default_rng(seed).integers(1, 23, 60)
    return BlockOrder(block_firsts(runs, block), window=window)


def test_blocks_do_not_cross_runs():
    firsts = block_firsts(np.array([5, 1, 4, 0, 9]), 4)
    assert firsts.tolist() == [0, 4, 5, 6, 10, 14, 18, 19]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("window", [1, 7, 1000])
def test_every_epoch_holds_the_frames_that_random_mode_holds(seed, window):
    order = ragged_order(seed, window)
    frames, epochs = order.places(0, 3 * len(order), SEED)
    plain, plain_epochs = stream.shuffled(len(order), 0, 3 * len(order), SEED)
    assert (epochs == plain_epochs).all()
    for epoch in range(3):
        assert sorted(frames[epochs == epoch]) == sorted(plain[epochs == epoch])


@pytest.mark.parametrize("seed", range(5))
def test_any_stretch_is_the_same_whatever_was_asked_before(seed):
    order = ragged_order(seed)
    frames, epochs = order.places(0, 3 * len(order), SEED)
    rng = np.random.default_rng(seed)
    for start in rng.integers(0, 3 * len(order), 50).tolist():
        count = int(rng.integers(0, 3 * len(order) - start + 1))
        asked = ragged_order(seed) if start % 5 == 0 else order  # after a restart, or going on
        found = asked.places(start, count, SEED)
        np.testing.assert_array_equal(found[0], frames[start : start + count])
        np.testing.assert_array_equal(found[1], epochs[start : start + count])


def test_epochs_and_seeds_have_orders_of_their_own():
    order = ragged_order(0)
    n = len(order)
    frames, _ = order.places(0, 2 * n, SEED)
    other, _ = order.places(0, n, SEED + 1)
    for a, b in ((frames[:n], frames[n:]), (frames[:n], other), (frames[n:], other)):
        assert (a == b).mean() < 0.05


def test_epochs_put_other_blocks_together():
    order = ragged_order(0)
    first, second = (set(order.block(order.frames(SEED, w))) for w in (0, order.windows))
    assert len(first & second) < len(first) / 2


def test_a_window_holds_whole_blocks_and_its_frames_are_mixed():
    order = ragged_order(0, window=7)
    for window in range(2 * order.windows):
        frames = order.frames(SEED, window)
        blocks, counts = np.unique(order.block(frames), return_counts=True)
        assert len(blocks) <= 7
        assert (counts == np.diff(order.firsts)[blocks]).all()
        assert (np.diff(frames) == 1).mean() < 0.5


def test_the_frames_of_a_block_are_spread_over_its_window():
    order = BlockOrder(block_firsts(np.full(100, 16), 16), window=50)
    frames = order.frames(SEED, 0)
    for part in np.split(order.block(frames), 16):
        assert len(np.unique(part)) > 35  # of 50; 32 if drawn without regard to blocks


def test_windows_differ_by_at_most_one_block():
    order = ragged_order(0, window=9)
    sizes = [
        len(np.unique(order.block(order.frames(SEED, window)))) for window in range(order.windows)
    ]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == order.blocks


def test_batches_hold_97_percent_of_the_episodes_of_a_uniform_draw():
    episodes, steps, batch = 3000, 100, 128
    order = BlockOrder(block_firsts(np.full(episodes, steps), 16), window=400)
    frames, _ = order.places(0, 200 * batch, SEED)
    distinct = np.mean([len(np.unique(part // steps)) for part in frames.reshape(-1, batch)])
    uniform = episodes * (1 - (1 - 1 / episodes) ** batch)
    assert distinct > 0.97 * uniform


def test_the_order_stays_what_it_is():
    """Runs resume with later versions: this order must not change."""
    order = BlockOrder(block_firsts(np.array([5, 3, 6]), 2), window=3)
    frames, _ = order.places(0, 14, 0)
    assert frames.tolist() == [13, 0, 1, 12, 3, 7, 2, 4, 5, 9, 11, 8, 10, 6]
