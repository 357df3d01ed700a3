"""TFRecord framing without TensorFlow: TensorFlow reads it, and finds every broken byte."""

import errno
import os

import numpy as np
import pytest

from vla_jax.data import records

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def test_tensorflow_reads_the_frames_and_refuses_a_flipped_bit(tmp_path):
    import tensorflow as tf

    rng = np.random.default_rng(1)
    batch = [rng.bytes(length) for length in (8, 1024, 3000)]
    whole = b"".join(records.frame(batch))
    path = tmp_path / "whole.tfrecord"
    path.write_bytes(whole)
    assert list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) == batch
    broken = bytearray(whole)
    broken[-10] ^= 1
    path.write_bytes(broken)
    with pytest.raises(tf.errors.DataLossError):
        list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())


def features():
    kinds = records.import_tfds().features
    return kinds.FeaturesDict({"number": np.int64, "text": kinds.Text()})


def write(directory, splits, **options):
    records.write_dataset(
        directory,
        name="numbers",
        features=features(),
        splits=splits,
        version="1.0.0",
        description="Numbers.",
        **options,
    )


def numbers(count):
    return ({"number": i, "text": str(i)} for i in range(count))


def read(directory, split="train"):
    builder = records.import_tfds().builder_from_directory(directory)
    return builder.info.splits[split], [
        int(example["number"]) for example in builder.as_dataset(split).as_numpy_iterator()
    ]


@pytest.mark.parametrize("total", [7, None])
def test_a_stream_of_unknown_length_is_written_as_one_of_known_length(tmp_path, total):
    write(tmp_path, {"train": (numbers(7), total)}, examples_per_shard=3)
    info, found = read(tmp_path)
    assert (info.shard_lengths, sorted(found)) == ([3, 3, 1], list(range(7)))
    assert sorted(path.name for path in tmp_path.glob("*tfrecord*")) == [
        f"numbers-train.tfrecord-0000{i}-of-00003" for i in range(3)
    ]


def test_a_shard_ends_with_the_example_that_fills_it(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_BYTES_PER_SHARD", 1000)
    texts = ({"number": i, "text": "x" * 400} for i in range(10))  # 400 and some bytes each
    write(tmp_path, {"train": (texts, None)})
    assert read(tmp_path)[0].shard_lengths == [3, 3, 3, 1]


def test_a_split_without_examples_is_one_empty_shard(tmp_path):
    write(tmp_path, {"train": (numbers(2), None), "test": (numbers(0), 0)})
    info = records.import_tfds().builder_from_directory(tmp_path).info
    assert info.splits["test"].shard_lengths == [0]
    assert (tmp_path / "numbers-test.tfrecord-00000-of-00001").read_bytes() == b""


def test_a_full_disk_says_what_is_free_also_when_the_need_is_unknown(tmp_path, monkeypatch):
    def full(batch):
        yield b""
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records, "frame", full)
    with pytest.raises(OSError, match=r"^\[Errno \d+\] more bytes needed, \d+ bytes free"):
        write(tmp_path, {"train": (numbers(3), None)})


def test_a_staged_folder_takes_its_name_only_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "1.0.0"
    with records.staged(target) as partial:
        (partial / "file").write_text("whole")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["1.0.0"]
    assert (target / "file").read_text() == "whole"


def test_a_failure_leaves_neither_the_staged_folder_nor_those_made_to_hold_it(tmp_path):
    def fail(target):
        with records.staged(target) as partial:
            (partial / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "new" / "inner" / "1.0.0")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "old" / "1.0.0")
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"]


def test_a_name_taken_meanwhile_is_not_overwritten(tmp_path):
    target = tmp_path / "1.0.0"

    def stage():
        with records.staged(target) as partial:
            (partial / "file").write_text("mine")
            target.mkdir()
            (target / "file").write_text("theirs")

    with pytest.raises(OSError, match=r"1\.0\.0"):
        stage()
    assert (target / "file").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]
