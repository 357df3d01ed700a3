import collections

import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.data import mixture

SIZES = (30, 50)


def take(count, *, shares=(0.5, 0.5), seed=0, part=None, sizes=SIZES):
    stream = mixture.stream(sizes, shares, seed)
    stream = stream if part is None else stream[part]
    return [tuple(map(int, stream[i])) for i in range(count)]


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.25, 0.75), (0.9, 0.1)])
def test_every_stretch_holds_its_share(shares):
    drawn = np.array([source for source, _ in take(400, shares=shares)])
    for start in range(0, 400, 40):
        assert abs((drawn[start : start + 40] == 0).sum() - 40 * shares[0]) <= 1
    assert (drawn == 0).sum() == round(400 * shares[0])


def test_an_equal_mixture_is_exact_in_every_batch():
    drawn = np.array([source for source, _ in take(320)]).reshape(10, 32)
    assert (drawn.sum(axis=1) == 16).all()


def test_every_index_comes_once_per_epoch():
    seen = collections.defaultdict(list)
    for source, index in take(300):
        seen[source].append(index)
    for source, size in enumerate(SIZES):
        epochs = [seen[source][i : i + size] for i in range(0, 150 - size + 1, size)]
        assert len(epochs) >= 3
        for epoch in epochs:
            assert sorted(epoch) == list(range(size))
        assert epochs[0] != epochs[1]  # shuffled anew
        assert epochs[0] != sorted(epochs[0])


def test_the_seed_decides_and_nothing_else():
    assert take(100, seed=3) == take(100, seed=3)
    assert take(100, seed=3) != take(100, seed=4)


def test_no_two_seeds_share_a_shuffle():
    # Sources of one size under neighbouring seeds.
    orders = {
        (seed, source): tuple(i for s, i in take(60, seed=seed, sizes=(30, 30)) if s == source)
        for seed in range(4)
        for source in range(2)
    }
    assert len(set(orders.values())) == 8


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_divide_the_same_global_batches(hosts):
    whole = take(96, seed=1)
    parts = [take(96 // hosts, seed=1, part=slice(h, None, hosts)) for h in range(hosts)]
    local = 12 // hosts
    for k in range(8):
        union = [row for part in parts for row in part[k * local : (k + 1) * local]]
        assert sorted(union) == sorted(whole[k * 12 : (k + 1) * 12])


def test_a_share_of_nothing_leaves_a_source_out():
    assert {source for source, _ in take(80, shares=(1.0, 0.0))} == {0}
    assert {source for source, _ in take(80, shares=(0.0, 1.0))} == {1}


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(UserError, match=r"config\.mixture\.robot_share: expected 0\.\.1"):
        mixture.MixtureConfig(robot_share=share)
