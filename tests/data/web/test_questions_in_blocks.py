"""Question sets behind a web server: whole blocks are fetched, the examples stay the same."""

import collections
import concurrent.futures
import json

import pytest
from object_store import serve
from question_files import picture, write_lines, write_tar

from vla_jax.core.errors import UserError
from vla_jax.data.blocks import BlocksConfig
from vla_jax.data.web.table import WebConfig, open_web

COUNT, SEED = 60, 5
LAYOUT = {"tfds": "qa", "webdataset": "qa", "jsonl": "prefix_suffix"}
SIZES = {"frames": 6, "budget": 120_000, "readahead": 1}


def row(i):
    return {"question": f"How many? {i}", "answers": [str(i), str(i), "many"]}


def in_tfds(write_tfds):
    def features(f):
        return {"question": f.Text(), "answers": f.Sequence(f.Text())}

    return write_tfds("asked", features, [row(i) for i in range(COUNT)], per_shard=20)


def in_tar(folder):
    for k in range(3):
        files = []
        for i in range(20 * k, 20 * (k + 1)):
            files += [(f"{i:04d}.jpg", picture(i)), (f"{i:04d}.json", json.dumps(row(i)).encode())]
        write_tar(folder / f"train-{k}.tar", files)
    return folder


@pytest.fixture(scope="module", params=["tfds", "webdataset"])
def asked(request, write_tfds, tmp_path_factory):
    """Format, store and opener of a set of three files: remote unless it is told otherwise."""
    form = request.param
    folder = in_tfds(write_tfds) if form == "tfds" else in_tar(tmp_path_factory.mktemp("tars"))
    cache_dir = tmp_path_factory.mktemp("indexes")
    with serve(folder) as store:

        def opened(split="train", is_remote=True, **sizes):
            config = WebConfig(format=form, layout=LAYOUT[form], split=split)
            return open_web(
                "web",
                config,
                directory=store.url if is_remote else folder,
                cache_dir=cache_dir,
                blocks=BlocksConfig(**SIZES | sizes) if is_remote else None,
            )

        yield store, opened


def read(source, start, count, *, batch=8):
    """Reads as a loader does, with threads: the examples in order."""
    found = []
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for first in range(start, start + count, batch):
            rows = min(batch, start + count - first)
            numbers, epochs = source.shuffle(first, rows, SEED)
            found += pool.map(source.example, numbers.tolist(), epochs.tolist())
    return found


def key(example):
    return example.episode, example.prefix, example.suffix, example.images


@pytest.mark.parametrize("split", ["train", "train[25%:90%]"])
def test_an_epoch_takes_few_requests_and_gives_the_same_examples(asked, split):
    store, opened = asked
    near, far = opened(split, is_remote=False), opened(split)
    assert len(far) == len(near) == (60 if split == "train" else 39)
    store.gets.clear()
    found = read(far, 0, len(far))
    reads = [get for get in store.gets if "train" in get[0]]
    assert len(reads) <= len(far) / 3  # and not one for each, as frame by frame
    expected = [near.example(i, 0) for i in range(len(near))]
    assert sorted(map(key, found)) == sorted(map(key, expected))
    assert [example.episode for example in found] != sorted(e.episode for e in found)


def test_texts_and_answers_are_read_from_the_blocks(asked):
    store, opened = asked
    near, far = opened(is_remote=False), opened()
    store.gets.clear()
    assert far.texts() == near.texts()
    assert len(store.gets) == 12  # blocks of 6 that end with their file of 20
    assert [far.answers(i) for i in range(60)] == [near.answers(i) for i in range(60)]


@pytest.mark.parametrize("start", [1, 37, 60, 95])
def test_a_run_goes_on_with_the_very_examples(asked, start):
    _, opened = asked
    whole = read(opened(), 0, 120)
    assert read(opened(), start, 120 - start, batch=11) == whole[start:]
    counts = collections.Counter(example.episode for example in whole)
    assert set(counts.values()) == {2}


def test_what_is_held_is_told_and_kept(asked):
    _, opened = asked
    source = opened()
    read(source, 0, 120)
    assert source.ram == SIZES["budget"]
    assert 0 < source._blocks.cache.peak <= source.ram
    assert opened(is_remote=False).ram == 0


def test_another_order_is_another_fingerprint(asked):
    _, opened = asked
    sources = [opened(), opened(frames=5), opened(budget=60_000), opened(is_remote=False)]
    assert len({source.fingerprint for source in sources}) == 4
    assert opened(requests=1).fingerprint == opened().fingerprint


def test_a_block_that_is_missing_is_told_with_the_example(asked):
    store, opened = asked
    source = opened()
    store.status_of = lambda name, start, end: 404
    try:
        with pytest.raises(UserError, match=r"dataset web, shard http\S+, example 7: .*bytes \d+"):
            source.example(7)
    finally:
        store.status_of = lambda *_: None


def test_a_budget_below_a_block_names_the_set(asked):
    _, opened = asked
    with pytest.raises(UserError, match=r"dataset web: config\.loader\.blocks\.budget"):
        opened(budget=100)


def test_images_that_are_files_of_their_own_are_read_one_by_one(tmp_path):
    lines = [{"image": f"{i}.jpg", "prefix": f"q {i}", "suffix": "yes"} for i in range(6)]
    write_lines(tmp_path / "data" / "train.jsonl", lines)
    config = WebConfig(format="jsonl", layout="prefix_suffix")
    with serve(tmp_path / "data") as store:
        common = {"directory": store.url, "cache_dir": tmp_path / "indexes"}
        plain, asked = (open_web("w", config, blocks=b, **common) for b in (None, BlocksConfig()))
        assert asked.example(3).images == {"primary": (picture(3),)}
    assert (asked.ram, asked.fingerprint) == (0, plain.fingerprint)
