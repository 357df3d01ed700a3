import dataclasses
import itertools
import json
import time
import tracemalloc

import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.data.augment import AugmentConfig
from vla_jax.data.blocks import BlocksConfig
from vla_jax.data.images import decode, resize
from vla_jax.data.loader import Loader, LoaderConfig, collate
from vla_jax.data.mixture import MixtureConfig, RobotConfig
from vla_jax.data.web.table import WebConfig

AUGMENT = AugmentConfig(crop=0.8, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.05)
MIXTURE = MixtureConfig(
    name=None,
    robots={"arm": RobotConfig(), "hand": RobotConfig(weight=2.0)},
    web={"vqa": WebConfig()},
    schedule=((0, 0.75), (20, 0.25)),
)
SIZES = {"arm": 23, "hand": 31, "vqa": 17}


def open_all(make_source):
    return (
        make_source("arm", "robot", SIZES["arm"], dimensions=3, states=2),
        make_source("hand", "robot", SIZES["hand"], dimensions=5),
        make_source("vqa", "web", SIZES["vqa"]),
    )


@pytest.fixture
def sources(make_source):
    return open_all(make_source)


@pytest.fixture(scope="session")
def encoder(make_source, make_encoder):
    return make_encoder(open_all(make_source))


@pytest.fixture
def open_loader(sources, encoder):
    def open_loader(
        *, seed=0, start=0, process=(0, 1), mixture=MIXTURE, chosen=None, image_size=16, **settings
    ):
        config = LoaderConfig(
            **{"batch_size": 8, "threads": 2, "augment": AUGMENT, "continuous": True, **settings}
        )
        return Loader(
            sources if chosen is None else chosen,
            mixture,
            encoder,
            config,
            image_size=image_size,
            seed=seed,
            start=start,
            process=process,
        )

    return open_loader


@pytest.fixture
def batches(open_loader):
    return lambda count, **settings: list(itertools.islice(open_loader(**settings), count))


def arrays(batch):
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return {name: value for name, value in fields.items() if value is not None}


def same(one, other):
    one, other = arrays(one), arrays(other)
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def join(parts):
    """Puts the hosts' parts of one batch together."""
    kind = type(parts[0])
    return kind(**{k: np.concatenate([arrays(p)[k] for p in parts]) for k in arrays(parts[0])})


def test_a_batch_has_the_layout_of_the_contract(batches):
    (batch,) = batches(1)
    found = {name: (value.shape, value.dtype) for name, value in arrays(batch).items()}
    assert found == {
        "images": ((8, 1, 16, 16, 3), np.uint8),
        "image_mask": ((8, 1), bool),
        "tokens": ((8, 21), np.int32),
        "prefix_length": ((8,), np.int32),
        "loss_mask": ((8, 21), bool),
        "source": ((8,), np.int32),
        "actions": ((8, 1, 5), np.float32),
        "action_mask": ((8, 1, 5), bool),
        "state": ((8, 2), np.float32),
        "state_mask": ((8, 2), bool),
    }
    assert (batch.source < 2).sum() == 6


def test_every_example_comes_once_per_epoch_of_its_source(batches, sources):
    found = batches(60, augment=AugmentConfig(), batch_size=24)
    for number, source in enumerate(sources):
        pictures = {
            resize(decode(source.encoded(i), "x", at_least=16), 16).tobytes(): i
            for i in range(len(source))
        }
        assert len(pictures) == len(source)
        seen = [
            pictures[image.tobytes()]
            for batch in found
            for image in batch.images[batch.source == number, 0]
        ]
        epochs = [seen[k : k + len(source)] for k in range(0, len(seen), len(source))]
        assert len(epochs) >= 4
        for epoch in epochs[:-1]:
            assert sorted(epoch) == list(range(len(source)))
        assert epochs[0] != epochs[1]


def test_batch_k_is_a_function_of_seed_and_k(batches):
    first, again, other = batches(6, seed=1), batches(6, seed=1), batches(6, seed=2)
    assert all(map(same, first, again))
    assert not any(map(same, first, other))
    assert not same(first[0], first[1])


@pytest.mark.parametrize("case", range(6))
def test_resuming_is_exact_wherever_it_stopped_with_any_threads_and_hosts(batches, case):
    rng = np.random.default_rng(case)
    whole = batches(36)
    for _ in range(4):
        # The sources are several times shorter than the stream.
        start, hosts = int(rng.integers(0, 34)), int(rng.choice([1, 2, 4, 8]))
        settings = {"threads": int(rng.integers(1, 8)), "prefetch": int(rng.integers(1, 4))}
        parts = [batches(2, start=start, process=(h, hosts), **settings) for h in range(hosts)]
        for k in range(2):
            assert same(join([part[k] for part in parts]), whole[start + k])


@pytest.mark.parametrize("on_device", [False, True])
def test_an_example_is_augmented_anew_in_every_epoch(batches, sources, on_device):
    augment = dataclasses.replace(AUGMENT, on_device=on_device)
    only = MixtureConfig(name=None, robots={"arm": RobotConfig()}, robot_share=1.0, web={})
    found = batches(2, mixture=only, batch_size=23, augment=augment, chosen=sources[:1])
    one, two = (np.argsort(batch.actions[:, 0, 0]) for batch in found)
    differ = (found[0].images[one] != found[1].images[two]).any(axis=(1, 2, 3, 4))
    assert differ.mean() > 0.7  # few pixels: two crops may round to the same
    if on_device:
        assert (found[0].colour[one] != found[1].colour[two]).any(axis=(1, 2)).all()


def test_a_schedule_moves_the_share_of_robots(batches):
    counts = [(batch.source < 2).sum() for batch in batches(24, augment=AugmentConfig())]
    assert counts[0] == 6
    assert counts[-1] == 2
    assert np.abs(np.diff(counts)).max() <= 1


def test_shares_within_the_robots_are_those_of_the_weights(batches):
    found = np.concatenate([batch.source for batch in batches(60, augment=AugmentConfig())])
    robots = found[found < 2]
    assert (robots == 0).mean() == pytest.approx(23 / (23 + 2 * 31), abs=0.01)


def test_state_is_one_integer_and_the_datasets_it_indexes_into(open_loader, sources):
    state = open_loader(start=5).state(6)
    # Given by the caller: batches are decoded ahead of the step that takes them.
    assert state == {
        "next_batch": 6,
        "fingerprint": {"arm": "arm of 23", "hand": "hand of 31", "vqa": "vqa of 17"},
    }
    assert Loader.check(json.loads(json.dumps(state)) | {"seconds": 2.0}, sources) == 6


def test_another_dataset_than_before_is_refused_by_name(open_loader, sources, make_source):
    state = open_loader().state(6)
    other = make_source("hand", "robot", 32, dimensions=5)
    with pytest.raises(UserError, match=r"dataset hand: .*hand of 31, found hand of 32.*--workdir"):
        Loader.check(state, (sources[0], other, sources[2]))
    with pytest.raises(UserError, match=r"dataset vqa: .*found absent"):
        Loader.check(state, sources[:2])


def test_a_damaged_picture_stops_the_run_and_is_named(batches, sources):
    sources[1].damaged.add(7)
    with pytest.raises(
        UserError, match=r"hand shard s-0 episode 7 step 0: image primary: cannot be decoded.*=skip"
    ):
        batches(30)


def test_a_damaged_picture_gives_way_to_the_next_and_is_logged(
    open_loader, batches, sources, capsys
):
    sources[1].damaged |= {7, 8}
    skipping = {"on_corrupt": "skip"}
    loader = open_loader(**skipping)
    found = list(itertools.islice(loader, 20))
    assert sorted(loader.skipped.flaws) == [
        "hand shard s-0 episode 7 step 0",
        "hand shard s-0 episode 8 step 0",
    ]
    assert loader.skipped.counts() == {"picture": 2}
    assert all("cannot be decoded" in flaw.reason for flaw in loader.skipped.flaws.values())
    assert "skipped hand shard s-0 episode 7" in "".join(capsys.readouterr())
    actions = np.concatenate([batch.actions[batch.source == 1, 0, 0] for batch in found])
    numbers = np.rint(actions * 0.98 * 31).astype(int)
    assert not {7, 8} & set(numbers.tolist())
    counts = np.bincount(numbers, minlength=31)
    assert counts[9] >= 2 * counts.max() / 3  # it stands in for two others
    # Whatever the threads, whatever the start.
    assert same(batches(1, start=11, threads=5, **skipping)[0], found[11])
    sources[1].damaged.clear()
    unharmed = batches(20)
    assert [b.source.tolist() for b in unharmed] == [b.source.tolist() for b in found]


@pytest.mark.parametrize("damaged", [set(), {7, 8, 30}])
@pytest.mark.parametrize("process", [(0, 1), (1, 2)])
def test_a_batch_is_made_again_and_its_examples_are_named(open_loader, sources, damaged, process):
    sources[1].damaged |= damaged
    loader = open_loader(process=process, on_corrupt="skip", start=4)
    found = dict(enumerate(itertools.islice(loader, 30), start=4))
    seen = set()
    for k in (30, 4, 17):
        batch, places = loader.again(k)
        assert same(batch, found[k])
        for row, place in enumerate(places):
            name, number = place.split(" shard s-0 episode ")
            source = ("arm", "hand", "vqa")[batch.source[row]]
            assert name == source
            if source == "hand":
                i = int(number.removesuffix(" step 0"))
                assert i == round(float(batch.actions[row, 0, 0]) * 0.98 * 31)
                seen.add(i)
    assert seen
    assert not seen & damaged


def test_the_last_example_gives_way_to_the_first(batches, sources):
    sources[1].damaged.add(30)
    found = batches(20, on_corrupt="skip")
    actions = np.concatenate([batch.actions[batch.source == 1, 0, 0] for batch in found])
    assert 30 not in np.rint(actions * 0.98 * 31)


def test_more_damage_than_allowed_stops_the_run(batches, sources):
    sources[1].damaged |= {3, 4, 5, 6}
    with pytest.raises(UserError, match=r"3 damaged examples.*at most 2 \(config\.loader\.max_sk"):
        batches(40, on_corrupt="skip", max_skipped=2)


def test_images_of_more_pixels_than_allowed_are_bad_items(batches, open_loader):
    assert batches(1, max_pixels=40 * 48)
    one_less = {"max_pixels": 40 * 48 - 1}
    with pytest.raises(
        UserError, match=r"expected at most 1,919 pixels.*config\.loader\.max_pixels"
    ):
        batches(1, **one_less)
    loader = open_loader(on_corrupt="skip", max_skipped=3, **one_less)
    with pytest.raises(UserError, match=r"damaged examples.*at most 3"):
        next(loader)
    assert set(loader.skipped.counts()) == {"picture"}


def test_a_dataset_that_is_damaged_throughout_ends_too(batches, sources):
    sources[1].damaged |= set(range(31))
    with pytest.raises(UserError, match=r"dataset hand: no example of it can be read"):
        batches(40, on_corrupt="skip", max_skipped=1000)


@pytest.mark.parametrize("text", ["yes " * 20, "\u200b", "\ud800"])
@pytest.mark.parametrize("process", [(0, 1), (1, 2)])
def test_examples_of_a_text_that_cannot_be_written_give_way_and_count_once(
    open_loader, sources, batches, text, process
):
    sound = type(sources[2]).example

    def example(i, draw=0):
        found = sound(sources[2], i, draw)
        return dataclasses.replace(found, suffix=text) if i in (3, 4, 9) else found

    sources[2].example = example
    with pytest.raises(UserError, match=r"vqa shard s-0 episode \d+ .*on_corrupt=skip"):
        batches(20)
    loader = open_loader(on_corrupt="skip", max_skipped=1, process=process)
    found = list(itertools.islice(loader, 20))
    assert loader.skipped.counts() == {"text": 1}
    again, places = loader.again(11)
    assert same(again, found[11])
    assert not {3, 4, 9} & {int(p.split()[4]) for p in places if p.startswith("vqa")}
    start = open_loader(on_corrupt="skip", start=11, threads=5, process=process)
    assert same(next(start), found[11])


def test_reads_go_in_the_order_on_disk(open_loader, sources):
    loader = open_loader(threads=1, prefetch=1)
    reads = sources[1].reads[: (next(loader).source == 1).sum()]
    assert len(reads) > 2
    assert reads == sorted(reads)


def test_memory_is_predicted_and_a_budget_below_it_refused(open_loader, sources):
    loader = open_loader(prefetch=3, threads=2)
    images = (3 + 2) * 8 * 16 * 16 * 3
    scratch = 2 * 3 * 40 * 48 * 3
    fixed = 24 * 2**20
    assert images + scratch <= loader.predicted_ram() - fixed <= 1.4 * (images + scratch)
    budget = loader.predicted_ram()
    assert open_loader(prefetch=3, threads=2, ram_budget=budget).predicted_ram() == budget
    with pytest.raises(UserError, match=r"config\.loader\.ram_budget: .*config\.loader\.prefetch"):
        open_loader(prefetch=4, threads=2, ram_budget=budget)
    sources[0].ram = 1000
    assert open_loader(prefetch=3, threads=2).predicted_ram() == budget + 1000


def test_memory_is_predicted_although_the_first_picture_is_no_picture(open_loader, sources):
    predicted = open_loader().predicted_ram()
    real = sources[0].example
    sources[0].example = lambda i, draw=0: (
        dataclasses.replace(real(i, draw), images={"primary": (b"no picture",)})
        if i == 0
        else real(i, draw)
    )
    assert open_loader(on_corrupt="skip").predicted_ram() == predicted


def test_the_loader_keeps_within_the_memory_it_predicts(open_loader):
    settings = {"batch_size": 200, "threads": 4, "prefetch": 3, "image_size": 160}
    tracemalloc.start()
    try:
        loader = open_loader(**settings)
        held = next(loader)
        time.sleep(1)  # the loader runs ahead of a slow consumer
        for _ in range(4):
            held, _ = next(loader), held
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    batch = 200 * 160 * 160 * 3
    assert 2 * batch < peak < loader.predicted_ram()


def test_collate_makes_the_batch_of_training_without_its_augmentation(sources, encoder, batches):
    (wanted,) = batches(1, augment=AugmentConfig(), start=4)
    config = LoaderConfig(augment=AUGMENT, continuous=True)
    numbers = np.rint(wanted.actions[:, 0, 0] * 0.98 * np.array([23, 31, 0])[wanted.source])
    robots = np.flatnonzero(wanted.source < 2)
    examples = [sources[wanted.source[row]].example(int(numbers[row])) for row in robots]
    found = collate(examples, wanted.source[robots], sources, encoder, config, image_size=16)
    for name, value in arrays(found).items():
        np.testing.assert_array_equal(value, getattr(wanted, name)[robots])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, r"LoaderConfig\.batch_size: expected 1\.\.1048576"),
        ({"threads": 0}, r"\.threads"),
        ({"prefetch": -1}, r"\.prefetch"),
        ({"history": 0}, r"\.history"),
        ({"chunk": 0}, r"\.chunk"),
        ({"max_skipped": -1}, r"\.max_skipped: expected 0\.\."),
        ({"max_pixels": 0}, r"\.max_pixels: expected 1\.\."),
        ({"views": ()}, r"config\.loader\.views"),
        ({"views": ("wrist", "wrist")}, r"config\.loader\.views: expected different names"),
        ({"held_out": 1.0}, r"\.held_out: expected 0 <= x < 1"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        LoaderConfig(**changes)


def test_a_batch_that_hosts_cannot_share_is_refused(batches):
    with pytest.raises(UserError, match=r"config\.loader\.batch_size.*multiple of the 3"):
        batches(1, process=(0, 3))


def test_one_source_may_be_all(batches, sources):
    only = MixtureConfig(name=None, robots={"arm": RobotConfig()}, robot_share=1.0, web={})
    found = batches(3, mixture=only, chosen=sources[:1])
    assert {int(s) for batch in found for s in batch.source} == {0}


def test_the_tabletop_is_read_the_same_frame_by_frame_and_in_blocks(
    open_episodes, make_encoder, tabletop_index
):
    def rows(**settings):
        source = open_episodes("all", history=2, **settings)
        loader = Loader(
            [source],
            MixtureConfig(robot_share=1.0, web={}),
            make_encoder([source], suffix=10, prefix=32),
            LoaderConfig(batch_size=len(source), history=2, threads=2, prefetch=1),
            image_size=32,
            seed=0,
        )
        batch = next(loader)
        return sorted(
            batch.images[k].tobytes() + batch.tokens[k].tobytes() for k in range(len(source))
        )

    frames, blocks = rows(), rows(blocks=BlocksConfig(frames=4, budget=200_000, readahead=1))
    assert frames == blocks
