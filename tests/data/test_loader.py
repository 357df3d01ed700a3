import dataclasses
import itertools

import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.data.loader import Loader, LoaderConfig, collate

NAMES = ("images", "tokens", "prefix_length", "loss_mask", "source")


@pytest.fixture
def batches(sources, encoder):
    def take(count, *, seed=0, start=0, threads=2, size=8, process=(0, 1), shares=(0.5, 0.5)):
        config = LoaderConfig(batch_size=size, threads=threads, prefetch=2)
        loader = Loader(sources, shares, encoder, config, seed=seed, start=start, process=process)
        return list(itertools.islice(loader, count))

    return take


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in NAMES)


def rows(batch):
    """Each example as bytes, so that batches can be compared as sets."""
    return sorted(
        b"".join(np.asarray(getattr(batch, name)[i]).tobytes() for name in NAMES)
        for i in range(len(batch.tokens))
    )


def test_a_batch_has_the_layout_of_the_contract(batches, encoder):
    (batch,) = batches(1)
    shapes = {name: (getattr(batch, name).shape, getattr(batch, name).dtype) for name in NAMES}
    assert shapes == {
        "images": ((8, 1, 32, 32, 3), np.uint8),
        "tokens": ((8, 25), np.int32),
        "prefix_length": ((8,), np.int32),
        "loss_mask": ((8, 25), bool),
        "source": ((8,), np.int32),
    }
    assert batch.source.tolist().count(0) == 4
    assert not batch.loss_mask[:, :16].any()
    # An action is eight tokens and <eos>.
    assert (batch.loss_mask[batch.source == 0].sum(1) == 9).all()
    actions = batch.tokens[batch.source == 0][:, 16:24]
    assert set(actions.ravel().tolist()) <= set(encoder.action_tokens.ids)


def test_batch_k_is_a_function_of_seed_and_k(batches):
    first, again, other = batches(6, seed=1), batches(6, seed=1), batches(6, seed=2)
    assert all(map(same, first, again))
    assert not any(map(same, first, other))
    assert not same(first[0], first[1])


def test_starting_later_skips(batches):
    whole = batches(30)
    for start in (1, 7, 25):  # the sources are several times shorter than the stream
        assert all(map(same, batches(3, start=start), whole[start:]))


def test_threads_change_nothing(batches):
    assert all(map(same, batches(6, threads=1), batches(6, threads=7)))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_hold_the_same_global_batch(batches, hosts):
    whole = batches(4)
    parts = [batches(4, process=(h, hosts)) for h in range(hosts)]
    for k, batch in enumerate(whole):
        assert all(len(part[k].tokens) == 8 // hosts for part in parts)
        assert sorted(row for part in parts for row in rows(part[k])) == rows(batch)


def test_one_source_may_be_all(batches):
    assert {int(s) for batch in batches(3, shares=(1.0, 0.0)) for s in batch.source} == {0}


def test_state_is_one_integer_and_what_it_indexes(sources, encoder):
    config = LoaderConfig(batch_size=4, threads=1)
    loader = Loader(sources, (0.5, 0.5), encoder, config, seed=0, start=5)
    sizes = [len(source) for source in sources]
    # Given by the caller: batches are decoded ahead of the step that takes them.
    assert loader.state(6) == {"next_batch": 6, "sizes": sizes}


def test_a_mistake_in_the_data_surfaces_with_its_name(sources, encoder):
    class Broken:
        name = "broken"

        def __len__(self):
            return 10

        def frame(self, i):
            return dataclasses.replace(sources[1].frame(i), suffix="<loc0001>" * 20)

    loader = Loader((Broken(),), (1.0,), encoder, LoaderConfig(batch_size=2, threads=1), seed=0)
    with pytest.raises(UserError, match=r"target of web episode \d+ step 0 is too long"):
        next(loader)


def test_collate_keeps_the_order(sources, encoder):
    frames = [sources[0].frame(3), sources[1].frame(7)]
    batch = collate(frames, [0, 1], encoder)
    assert batch.source.tolist() == [0, 1]
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(batch.images[i, 0], frame.images["primary"])
        np.testing.assert_array_equal(batch.tokens[i], encoder.encode(frame)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, r"config\.loader: expected batch_size, threads and prefetch >= 1"),
        ({"threads": 0}, r"config\.loader:"),
        ({"prefetch": -1}, r"config\.loader:"),
        ({"held_out": 1.0}, r"config\.loader\.held_out: expected 0 <= x < 1"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        LoaderConfig(**changes)


def test_a_batch_that_hosts_cannot_share_is_refused(batches):
    with pytest.raises(UserError, match=r"config\.loader\.batch_size.*multiple of the 3"):
        batches(1, process=(0, 3))
