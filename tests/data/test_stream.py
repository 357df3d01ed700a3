import collections
import itertools

import numpy as np
import pytest

from vla_jax.data import stream

CONSTANT = stream.Schedule([(0, 0.6)])


def plan(*, robots=(1.0, 2.0, 0.5), web=(1.0, 1.0), schedule=CONSTANT, batch_size=32):
    return stream.Plan(robots=robots, web=web, schedule=schedule, batch_size=batch_size)


def drawn(plan, batches, hosts=1):
    parts = [plan.rows(k, (h, hosts)) for k in range(batches) for h in range(hosts)]
    return tuple(np.concatenate([getattr(p, name) for p in parts]) for name in ("source", "place"))


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_every_example_comes_once_per_epoch(size):
    numbers, epochs = stream.shuffled(size, 0, 3 * size, seed=5)
    for epoch in range(3):
        assert sorted(numbers[epochs == epoch]) == list(range(size))
    assert epochs.tolist() == sorted(epochs)


def test_epochs_and_seeds_are_shuffled_differently():
    orders = {
        tuple(stream.shuffled(50, 50 * epoch, 50, seed)[0].tolist())
        for epoch in range(4)
        for seed in range(4)
    }
    assert len(orders) == 16
    assert tuple(range(50)) not in orders


def test_the_shuffle_can_be_entered_anywhere():
    whole = stream.shuffled(30, 0, 100, seed=2)
    for start in (1, 29, 30, 61):
        part = stream.shuffled(30, start, 100 - start, seed=2)
        assert all(np.array_equal(p, w[start:]) for p, w in zip(part, whole, strict=True))


def test_a_large_dataset_is_shuffled_without_a_table():
    numbers, epochs = stream.shuffled(10**11, 5 * 10**11 + 3, 200, seed=1)
    assert len(set(numbers.tolist())) == 200
    assert numbers.max() > 2**32  # and not folded into 32 bits
    assert set(epochs.tolist()) == {5}


def test_a_batch_touches_as_many_episodes_as_a_uniform_draw():
    episodes = 300
    found = np.mean(
        [len(set((stream.shuffled(30_000, k * 128, 128, 0)[0] // 100).tolist())) for k in range(50)]
    )
    uniform = episodes * (1 - (1 - 1 / episodes) ** 128)
    assert found >= 0.97 * uniform


@pytest.mark.parametrize(
    "weights", [(1.0, 1.0099), (0.5, 0.3, 0.2), tuple(range(1, 26)), (1, 1e-3)]
)
def test_realised_proportions_are_those_asked_for(weights):
    sources, _ = stream.Interleave(weights).take(0, 10_000)
    found = np.bincount(sources, minlength=len(weights)) / 10_000
    np.testing.assert_allclose(found, np.array(weights) / sum(weights), atol=1e-3)


def test_every_stretch_of_an_interleaving_holds_its_share():
    weights = np.array([5.0, 3.0, 1.0])
    sources, _ = stream.Interleave(weights).take(0, 900)
    for start in range(900 - 90):
        counts = np.bincount(sources[start : start + 90], minlength=3)
        assert np.abs(counts - 90 * weights / 9).max() <= 2


def test_an_interleaving_counts_each_source_up_and_can_be_entered_anywhere():
    interleave = stream.Interleave(np.random.default_rng(0).uniform(0.01, 5, 25))
    sources, places = interleave.take(0, 3000)
    for source in range(25):
        mine = places[sources == source]
        assert mine.tolist() == list(range(len(mine)))
    for start, count in ((1, 1), (17, 900), (2999, 1), (1234, 0)):
        found = interleave.take(start, count)
        assert np.array_equal(found[0], sources[start : start + count])
        assert np.array_equal(found[1], places[start : start + count])
        assert (
            interleave.drawn(start).tolist() == np.bincount(sources[:start], minlength=25).tolist()
        )


def test_a_schedule_is_linear_between_points_and_constant_outside():
    schedule = stream.Schedule([(10, 0.2), (20, 0.8)])
    assert [float(schedule.share(k)) for k in (0, 10, 15, 20, 99)] == [0.2, 0.2, 0.5, 0.8, 0.8]


@pytest.mark.parametrize("points", [[(0, 0.3)], [(10, 0.2), (20, 0.8)], [(0, 1), (1, 0), (7, 0.9)]])
def test_the_total_of_a_schedule_is_the_exact_sum_of_its_shares(points):
    schedule = stream.Schedule(points)
    for steps in (0, 1, 9, 10, 11, 15, 21, 40):
        assert schedule.total(steps) == sum(schedule.share(k) for k in range(steps))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.6, 1.0])
def test_every_batch_holds_the_robot_share(share):
    made = plan(schedule=stream.Schedule([(0, share)]), batch_size=32)
    counts = [(made.rows(k).source < 3).sum() for k in range(100)]
    assert max(abs(count - 32 * share) for count in counts) < 1
    assert sum(counts) == round(3200 * share)


def test_batches_follow_the_schedule():
    made = plan(schedule=stream.Schedule([(0, 1.0), (100, 0.0)]), batch_size=20)
    counts = np.array([(made.rows(k).source < 3).sum() for k in range(120)])
    np.testing.assert_allclose(counts[:100], 20 * (1 - np.arange(100) / 100), atol=1)
    assert not counts[100:].any()


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_hosts_hold_parts_of_the_same_global_batch(hosts):
    for one, several in zip(drawn(plan(), 40), drawn(plan(), 40, hosts), strict=True):
        np.testing.assert_array_equal(one, several)


def test_each_host_has_its_share_of_robots():
    for k, host in itertools.product(range(20), range(8)):
        assert abs((plan(batch_size=64).rows(k, (host, 8)).source < 3).sum() - 8 * 0.6) <= 2


def test_a_batch_takes_consecutive_places_of_every_source():
    made = plan()
    counts = collections.Counter()
    for k in range(200):
        rows = made.rows(k)
        for source, place in zip(rows.source.tolist(), rows.place.tolist(), strict=True):
            assert place == counts[source]
            counts[source] += 1
        assert made.drawn(k + 1).tolist() == [counts[source] for source in range(5)]


def test_hashes_depend_on_every_argument_and_bits_are_balanced():
    values = stream.mix_bits(3, 1, np.arange(4096))
    assert len(set(values.tolist())) == 4096
    for other in ((3, 2), (4, 1), (1, 3)):
        assert not (stream.mix_bits(*other, np.arange(4096)) == values).any()
    bits = (values[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.05


def test_uniform_numbers_are_uniform_and_depend_on_their_own_row_only():
    draws = stream.mix_bits(0, np.arange(4000))
    numbers = stream.uniform(draws, 3)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.abs(np.corrcoef(numbers.T) - np.eye(3)).max() < 0.06
    np.testing.assert_allclose(
        np.quantile(numbers, [0.25, 0.5, 0.75], axis=0).T, [[0.25, 0.5, 0.75]] * 3, atol=0.03
    )
    np.testing.assert_array_equal(stream.uniform(draws[7:9], 3), numbers[7:9])
    assert not (stream.uniform(draws, 3, salt=1) == numbers).any()
