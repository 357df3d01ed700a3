import concurrent.futures
import functools

import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.data import tfrecord


def read(record, name):
    kind, start, end = tfrecord.features(record, 0, len(record))[name]
    reader = {
        tfrecord.BYTES: lambda *a: [record[i:j] for i, j in tfrecord.spans(*a)],
        tfrecord.FLOAT: tfrecord.floats,
        tfrecord.INT: tfrecord.integers,
    }[kind]
    return reader(record, start, end)


INTEGERS = [
    [0],
    [1, 127, 128, 300, 2**31, 2**63 - 1],
    [-1, -128, -(2**63), 5],
    list(range(1000)),
    [1, 0] * 40,
]


@pytest.mark.parametrize("values", INTEGERS)
def test_integers_are_those_of_tensorflow(tensorflow, values):
    found = read(tensorflow.example(x=(int, values)), "x")
    assert found.dtype == np.int64
    assert found.tolist() == values


@pytest.mark.parametrize("values", [[0.5], [-1e-30, 3e30, 0.1], list(np.linspace(-2, 2, 777))])
def test_floats_are_those_of_tensorflow(tensorflow, values):
    found = read(tensorflow.example(x=(float, values)), "x")
    np.testing.assert_array_equal(found, np.asarray(values, np.float32))
    found[0] = 7  # a copy, not a view of the file


@pytest.mark.parametrize("values", [[b"a"], [b"", b"\x00\xff\n", b"x" * 70_000], [b"word"] * 300])
def test_bytes_are_those_of_tensorflow(tensorflow, values):
    assert read(tensorflow.example(x=(bytes, values)), "x") == values


@pytest.mark.parametrize("kind", [bytes, float, int])
def test_an_empty_list_is_empty(tensorflow, kind):
    assert len(read(tensorflow.example(x=(kind, [])), "x")) == 0


def test_random_examples_are_those_of_tensorflow(tensorflow):
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = {
            "a": (bytes, [rng.bytes(n) for n in rng.integers(0, 300, rng.integers(0, 6))]),
            "b": (float, rng.normal(size=rng.integers(0, 200)).astype(np.float32).tolist()),
            "c/d": (int, (rng.integers(-(2**62), 2**62, rng.integers(0, 40)) >> 50).tolist()),
        }
        record = tensorflow.example(**values)
        for name, (_, expected) in values.items():
            found = read(record, name)
            assert (found if isinstance(found, list) else found.tolist()) == expected


def test_other_features_do_not_disturb(tensorflow):
    record = tensorflow.example(
        a=(bytes, [b"1", b"2"]), wanted=(int, [-3, 4]), z=(float, [1.0] * 500), e=(int, [])
    )
    assert read(record, "wanted").tolist() == [-3, 4]
    assert set(tfrecord.features(record, 0, len(record))) == {"a", "wanted", "z", "e"}


def test_a_feature_without_a_value_and_an_empty_example(tensorflow):
    tf = tensorflow.tf
    unset = tf.train.Example(features=tf.train.Features(feature={"u": tf.train.Feature()}))
    record = unset.SerializeToString()
    assert tfrecord.features(record, 0, len(record)) == {}
    assert tfrecord.features(b"", 0, 0) == {}
    empty = tf.train.Example(features=tf.train.Features()).SerializeToString()
    assert tfrecord.features(empty, 0, len(empty)) == {}


def test_bytes_that_are_no_example_are_refused():
    with pytest.raises(ValueError, match="expected tag 0xa"):
        tfrecord.features(b"\x12\x01a", 0, 3)


def test_lengths_that_point_outside_are_refused(tensorflow):
    record = tensorflow.example(x=(bytes, [b"abc"]))
    longer = bytearray(record)
    longer[3] += 1  # the length of the map entry
    with pytest.raises(ValueError, match="longer than its record"):
        tfrecord.features(bytes(longer), 0, len(longer))
    _, start, end = tfrecord.features(record, 0, len(record))["x"]
    element = bytearray(record)
    element[start + 1] += 1
    with pytest.raises(ValueError, match="longer than its list"):
        tfrecord.spans(bytes(element), start, end)
    with pytest.raises(ValueError, match="ends inside a number"):
        tfrecord.integers(b"\x0a\x02\x01\x80", 0, 4)
    with pytest.raises(ValueError, match="more than 64 bits"):
        tfrecord.integers(b"\x0a\x0c" + b"\x80" * 11 + b"\x01", 0, 14)


class Shard:
    """A shard in memory; remembers what was read of it."""

    def __init__(self, path):
        self.data, self.reads = path.read_bytes(), []

    def read(self, start, end):
        self.reads.append((start, end))
        assert 0 <= start < end <= len(self.data)
        return self.data[start:end]

    def records(self, name="shard", **options):
        return tfrecord.records(self.read, len(self.data), name, **options)

    def records_ahead(self, **options):
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            start_read = functools.partial(thread.submit, self.read)
            yield from self.records(**options, start_read=start_read)


@pytest.fixture
def shard(tensorflow, tmp_path):
    def make(payloads, change=lambda data: data):
        path = tmp_path / "shard"
        tensorflow.write(path, payloads)
        path.write_bytes(change(path.read_bytes()))
        return Shard(path)

    return make


@pytest.mark.parametrize("chunk", [1, 13, 100, 1 << 20])
@pytest.mark.parametrize("verify", [False, True])
def test_records_of_a_shard_are_those_of_tensorflow(shard, chunk, verify):
    payloads = [b"one", b"", b"x" * 1000, b"four", b"y" * 300]
    made = shard(payloads)
    found = list(made.records(chunk=chunk, verify=verify))
    assert found == list(made.records_ahead(chunk=chunk, verify=verify))
    assert [record.buffer[record.start : record.end] for record in found] == payloads
    assert [made.data[r.offset : r.offset + r.end - r.start] for r in found] == payloads
    assert [r.crc for r in found] == [
        made.data[r.offset + len(p) :][:4] for r, p in zip(found, payloads, strict=True)
    ]


def test_a_shard_is_read_about_once(shard):
    made = shard([b"x" * 5000] * 20)
    assert len(list(made.records(chunk=1))) == 20
    assert len(made.reads) == 21  # one per record, and the first header
    assert sum(end - start for start, end in made.reads) < 1.02 * len(made.data)
    reads = made.reads[:]
    made.reads.clear()
    assert len(list(made.records_ahead(chunk=1))) == 20
    assert made.reads == reads
    made.reads.clear()
    assert len(list(made.records(chunk=1 << 20))) == 20
    assert made.reads == [(0, len(made.data))]


def test_an_empty_shard_has_no_record(shard):
    assert list(shard([]).records()) == []


@pytest.mark.parametrize("missing", [1, 4, 5, 900, 1014])
def test_a_shard_cut_short_is_named_with_episode_and_byte(shard, missing):
    made = shard([b"one", b"x" * 1000], lambda data: data[:-missing])
    found = made.records("shard-3")
    assert next(found).offset == 12
    message = rf"shard-3, episode 1 of the shard \(byte 19\): .* ends at byte {len(made.data)}"
    with pytest.raises(UserError, match=message):
        next(found)


@pytest.mark.parametrize(
    ("byte", "part"), [(19, "length"), (28, "length"), (500, "payload"), (-1, "payload")]
)
def test_a_flipped_bit_is_found(shard, byte, part):
    def flip(data):
        changed = bytearray(data)
        changed[byte] ^= 1
        return bytes(changed)

    made = shard([b"one", b"x" * 1000], flip)
    found = made.records("shard-3")
    next(found)
    with pytest.raises(tfrecord.CorruptedError, match=f"shard-3, episode 1 .*the {part} is corr"):
        next(found)
    with pytest.raises(tfrecord.CorruptedError, match=f"shard, episode 1 .*the {part} is corr"):
        list(made.records_ahead(chunk=1))
    if part == "payload":
        assert len(list(made.records(verify=False))) == 2
