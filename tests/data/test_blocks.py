"""Block mode over a web server with latency: the same images, far fewer requests."""

import collections
import concurrent.futures
import shutil

import cv2
import fsspec
import numpy as np
import pytest
from object_store import serve

from vla_jax.core.errors import UserError
from vla_jax.data import indexing, stream
from vla_jax.data.block_cache import BlockCache
from vla_jax.data.blocks import BlockReader, Blocks, BlocksConfig
from vla_jax.data.episodes import Episodes
from vla_jax.data.records import import_tfds, write_dataset
from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.runtime.storage import Files

CAMERAS = ("steps/observation/image", "steps/observation/wrist")
LENGTHS = tuple(np.random.default_rng(0).integers(1, 60, 24).tolist())
SEED = 5
LATENCY = 0.03  # seconds


def episodes():
    rng = np.random.default_rng(1)
    for e, length in enumerate(LENGTHS):
        steps = [
            {
                "observation": {"image": noise(rng, 24), "wrist": noise(rng, 16)},
                "action": np.array([e, t], np.float32),
                "language_instruction": f"task {e}",
            }
            for t in range(length)
        ]
        yield {"steps": steps}


def noise(rng, size):
    image = rng.integers(0, 256, (size, size, 3)).astype(np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five shards of a dataset with two cameras."""
    features = import_tfds().features
    image = {"encoding_format": "jpeg"}
    step = {
        "observation": features.FeaturesDict(
            {
                "image": features.Image(shape=(24, 24, 3), **image),
                "wrist": features.Image(shape=(16, 16, 3), **image),
            }
        ),
        "action": features.Tensor(shape=(2,), dtype=np.float32),
        "language_instruction": features.Text(),
    }
    directory = tmp_path_factory.mktemp("set") / "arm" / "0.1.0"
    directory.mkdir(parents=True)
    write_dataset(
        directory,
        name="arm",
        features=features.FeaturesDict({"steps": features.Dataset(step)}),
        splits={"train": (episodes(), len(LENGTHS))},
        examples_per_shard=5,
        version="0.1.0",
        description="two cameras",
    )
    return directory


@pytest.fixture(scope="module")
def index(folder):
    """The dataset on the disk, to compare with."""
    return indexing.ensure(folder)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("indexes")


@pytest.fixture(scope="module")
def store(folder, index):
    with serve(folder.parents[1]) as store:
        yield store


@pytest.fixture(scope="module")
def remote(store, cache_dir):
    """The same dataset behind the server."""
    return indexing.ensure(f"{store.url}/arm/0.1.0", cache_dir=cache_dir)


def every(index):
    return np.arange(len(index))


def blocks(index, chosen=None, *, history=1, cameras=CAMERAS, **sizes):
    config = BlocksConfig(**{"frames": 8, "budget": 200_000} | sizes)
    chosen = every(index) if chosen is None else chosen
    return Blocks(index, chosen, cameras, config, history=history)


def read_epoch(source, count, batch=32, threads=8, start=0, seed=SEED):
    """Reads `count` frames as a loader does: (frame, images of both cameras) in order."""
    found = []

    def read(i):
        return [source.image_bytes(camera, int(i), int(i)) for camera in CAMERAS]

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        while count:
            rows = min(batch, count)
            numbers, _ = source.shuffle(start, rows, seed)
            found += list(zip(numbers.tolist(), pool.map(read, numbers), strict=True))
            start, count = start + rows, count - rows
    return found


def test_the_index_of_a_remote_dataset_is_that_of_the_files(index, remote, store):
    assert remote.fingerprint == index.fingerprint
    assert len(remote) == len(index) == sum(LENGTHS)
    for camera in CAMERAS:
        np.testing.assert_array_equal(remote.spans(camera), index.spans(camera))
    np.testing.assert_array_equal(remote.array("steps/action"), index.array("steps/action"))
    assert remote.text("steps/language_instruction", 0) == "task 0"
    assert remote.image_bytes(CAMERAS[0], 3) == index.image_bytes(CAMERAS[0], 3)


def test_an_index_is_made_with_few_requests(store, tmp_path):
    store.gets.clear()
    indexing.ensure(f"{store.url}/arm/0.1.0", cache_dir=tmp_path)
    counts = collections.Counter(name for name, *_ in store.gets if "tfrecord" in name)
    assert len(counts) == 5
    assert max(counts.values()) <= 8  # not one per record


def test_an_epoch_is_read_in_a_fifth_of_the_requests_and_is_the_same_set(index, remote, store):
    source = blocks(remote)
    store.gets.clear()
    store.latency = LATENCY
    try:
        found = read_epoch(source, len(index))
    finally:
        store.latency = 0
        source.reader.cache.close()
    reads = [get for get in store.gets if "tfrecord" in get[0]]
    frame_by_frame = len(index) * len(CAMERAS)
    assert len(reads) <= frame_by_frame / 5
    assert sorted(i for i, _ in found) == sorted(stream.shuffled(len(index), 0, len(index), 0)[0])
    for i, images in found:
        assert images == [index.image_bytes(camera, i) for camera in CAMERAS]


def test_every_block_is_fetched_once_when_windows_are_read_one_after_the_other(
    index, remote, store
):
    """One batch is one window, so that no thread is still in the window before."""
    source = blocks(remote)
    order = source.reader.order
    assert order.windows > 5  # far from everything in memory
    store.gets.clear()
    start = 0
    for window in range(order.windows):
        count = len(order.frames(SEED, window))
        read_epoch(source, count, batch=count, start=start)
        start += count
    source.reader.cache.close()
    fetched = collections.Counter(store.gets)
    assert len(fetched) == order.blocks * len(CAMERAS)
    ahead = source.reader._needed(order.frames(SEED, order.windows))  # of the next epoch
    again = {(remote.files.paths[k].rsplit("/", 1)[-1], *part) for k, *part in ahead}
    assert {get for get, count in fetched.items() if count > 1} <= again
    assert max(fetched.values()) <= 2


@pytest.mark.parametrize("budget", [60_000, 200_000, 10**8])
def test_the_budget_is_kept(index, budget):
    source = blocks(index, budget=budget)
    found = read_epoch(source, len(index))
    assert source.reader.cache.peak <= budget
    assert len(found) == len({i for i, _ in found}) == len(index)


@pytest.mark.parametrize("start", [0, 1, 77, 400, 1000])
def test_a_run_goes_on_bit_for_bit_from_any_place(index, start):
    whole = read_epoch(blocks(index), 1200, threads=8)
    resumed = read_epoch(blocks(index), 1200 - start, batch=50, threads=1, start=start)
    assert resumed == whole[start:]


def test_history_comes_from_the_same_block_and_stays_in_the_episode(index, store, remote):
    source = blocks(remote, history=3, cameras=CAMERAS[:1])
    store.gets.clear()
    for i in range(len(index)):
        first = int(index.starts[index.episode[i]])
        for k in range(max(first, i - 2), i + 1):
            assert source.image_bytes(CAMERAS[0], k, i) == index.image_bytes(CAMERAS[0], k)
    assert len(store.gets) == source.reader.order.blocks


@pytest.mark.parametrize("kept", ["every third", "long gaps", "one"])
def test_steps_that_are_left_out_are_not_examples(index, kept):
    frames = {
        "every third": every(index)[::3],
        "long gaps": np.flatnonzero(index.t // 12 % 2 == 0),
        "one": np.array([len(index) - 1]),
    }[kept]
    source = blocks(index, frames)
    numbers, epochs = source.shuffle(0, 2 * len(frames), SEED)
    for epoch in (0, 1):
        assert sorted(numbers[epochs == epoch]) == list(range(len(frames)))
    for i, k in enumerate(frames):
        assert source.image_bytes(CAMERAS[1], int(k), i) == index.image_bytes(CAMERAS[1], int(k))


def test_a_gap_longer_than_a_block_is_not_read(index):
    frames = np.flatnonzero((index.t < 2) | (index.t > 40))
    source = blocks(index, frames, cameras=CAMERAS[:1])
    for i, k in enumerate(frames):
        source.image_bytes(CAMERAS[0], int(k), i)
    sizes = [end - start for _, start, end in source.reader.cache._blocks]
    assert max(sizes) < 1.5 * 8 * index.spans(CAMERAS[0])[:, 1].mean()


def test_another_seed_and_a_step_back_read_right(index):
    source = blocks(index)
    first = read_epoch(source, 300)
    assert read_epoch(source, 300, seed=SEED + 1) != first
    assert read_epoch(source, 300) == first
    assert read_epoch(source, 100, start=100) == first[100:200]


@pytest.fixture
def told(monkeypatch):
    """What the caches are told: (window, number of blocks) by expect, None by restart."""
    found = []
    monkeypatch.setattr(
        BlockCache, "expect", lambda _, w, parts, reads: found.append((w, len(parts)))
    )
    monkeypatch.setattr(BlockCache, "restart", lambda _: found.append(None))
    return found


def test_each_window_is_told_once_and_anew_after_a_jump(index, told):
    source = blocks(index)
    length, following = (len(source.reader.order.frames(SEED, window)) for window in (0, 1))
    for start in (0, 1, length - 1, length, 2, length + following):
        source.shuffle(start, 1, SEED)
    assert [call and call[0] for call in told] == [None, 0, 1, 2, 3]
    told.clear()
    source.shuffle(2, 1, SEED)
    source.shuffle(2, 1, SEED + 1)
    assert [call and call[0] for call in told] == [None, 0, 1, None, 0, 1]


def test_a_run_that_goes_on_inside_a_window_fetches_only_what_is_left_of_it(index, told):
    source = blocks(index)
    length = len(source.reader.order.frames(SEED, 0))
    source.shuffle(length - 2, 1, SEED)
    assert told[1][1] <= 2 * len(CAMERAS)
    assert told[2][1] > 2 * len(CAMERAS)


def test_asking_for_an_order_alone_fetches_nothing(remote, store):
    source = blocks(remote)
    store.gets.clear()
    source.shuffle(0, 1000, SEED)
    assert store.gets == []


def test_a_block_that_cannot_be_fetched_is_told_with_its_shard_and_bytes(index, remote, store):
    files = Files(remote.files.paths, attempts=2, delay=0.01)
    broken = (int(index.records[7, 0]), int(index.records[7, 1]))

    def status_of(name, start, end):
        is_hit = name.endswith(f"0000{broken[0]}-of-00005") and end and start >= broken[1]
        return 500 if is_hit else None

    source = blocks(remote)
    source.reader.cache._files = files
    store.status_of = status_of
    try:
        with pytest.raises(UserError, match=r"train.tfrecord-0000\d-of-00005, bytes \d+ to \d+: "):
            read_epoch(source, len(index))
    finally:
        store.status_of = lambda *_: None
        source.reader.cache.close()


def test_a_budget_below_one_block_per_window_names_the_field(index):
    with pytest.raises(UserError, match=r"arm: config.loader.blocks.budget: expected at least \d+"):
        blocks(index, budget=1000)


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"budget": 0}, {"readahead": -1}])
def test_sizes_out_of_range_name_the_config(wrong):
    with pytest.raises(UserError, match=rf"BlocksConfig\.{next(iter(wrong))}: expected \d"):
        BlocksConfig(**wrong)


def test_the_signature_tells_orders_apart(index):
    signatures = {
        blocks(index).signature,
        blocks(index, frames=4).signature,
        blocks(index, budget=100_000).signature,
        blocks(index, readahead=6).signature,
    }
    assert len(signatures) == 4
    assert blocks(index, requests=1).signature == blocks(index).signature


def test_a_dataset_in_memory_of_fsspec_reads_the_same(folder, index, tmp_path):
    fs = fsspec.filesystem("memory")
    for path in folder.iterdir():
        if path.is_file():
            fs.pipe_file(f"memory://bucket/arm/0.1.0/{path.name}", path.read_bytes())
    try:
        copy = indexing.ensure("memory://bucket/arm/0.1.0", cache_dir=tmp_path)
        assert read_epoch(blocks(copy), len(index)) == read_epoch(blocks(index), len(index))
    finally:
        fs.rm("/bucket", recursive=True)


def test_a_robot_source_gives_the_same_examples_in_block_mode(made, open_episodes, tmp_path):
    near = open_episodes("train", history=2)
    with serve(made.robot) as store:
        index = indexing.ensure(store.url, cache_dir=tmp_path)
        store.gets.clear()
        sizes = BlocksConfig(frames=4, budget=10**6)
        far = Episodes(index, TABLETOP, part="train", held_out=0.25, history=2, blocks=sizes)
        numbers, _ = far.shuffle(0, len(near), SEED)
        assert sorted(numbers) == list(range(len(near)))
        for i in numbers.tolist():
            assert far.example(i, draw=1).images == near.example(i, draw=1).images
    assert far.ram == 10**6
    assert len(store.gets) < len(near) / 3


def test_any_numbered_items_can_be_read_in_blocks(tmp_path):
    """As web questions are: one stream, runs that end with their file."""
    paths = [tmp_path / "a", tmp_path / "b"]
    items = [[b"%d-%d;" % (f, n) * (n % 3 + 1) for n in range(30)] for f in range(2)]
    for path, mine in zip(paths, items, strict=True):
        path.write_bytes(b"".join(mine))
    ends = np.concatenate([np.cumsum([len(item) for item in mine]) for mine in items])
    starts = ends - np.array([len(item) for mine in items for item in mine])
    file = np.repeat([0, 1], 30)

    def cover(firsts, lasts):
        return np.stack([file[firsts], starts[firsts], ends[lasts]], 1)[:, None]

    reader = BlockReader(
        Files(paths), np.array([30, 30]), cover, BlocksConfig(frames=7, budget=300), name="web"
    )
    numbers, _ = reader.shuffle(0, 60, SEED)
    assert sorted(numbers) == list(range(60))
    for i in numbers.tolist():
        assert reader.read(i, 0, int(starts[i]), int(ends[i])) == items[i // 30][i % 30]


def test_it_reads_from_a_copy_that_is_gone_with_one_clear_error(folder, tmp_path):
    copy = tmp_path / "arm" / "0.1.0"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".*"))
    source = blocks(indexing.ensure(copy))
    for path in copy.glob("*00003-of-*"):
        path.unlink()
    with pytest.raises(UserError, match="00003-of-00005, byte"):
        read_epoch(source, sum(LENGTHS))
