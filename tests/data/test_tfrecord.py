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


def test_records_of_a_shard_are_those_of_tensorflow(tensorflow, tmp_path):
    payloads = [b"one", b"", b"x" * 1000]
    tensorflow.write(tmp_path / "shard", payloads)
    data = (tmp_path / "shard").read_bytes()
    assert [data[i:j] for i, j in tfrecord.records(data, "shard")] == payloads
    assert list(tfrecord.records(b"", "empty")) == []


@pytest.mark.parametrize("missing", [1, 4, 5, 900, 1014])
def test_a_shard_cut_short_is_named_with_the_byte(tensorflow, tmp_path, missing):
    tensorflow.write(tmp_path / "shard", [b"one", b"x" * 1000])
    data = (tmp_path / "shard").read_bytes()[:-missing]
    found = tfrecord.records(data, "shard-3")
    assert next(found) == (12, 15)
    with pytest.raises(UserError, match=rf"shard shard-3, byte 19: .* ends at byte {len(data)}"):
        next(found)


def test_shards_come_in_order_and_of_the_split_only(tmp_path):
    for name in ("d-train.tfrecord-00001-of-00002", "d-train.tfrecord-00000-of-00002"):
        (tmp_path / name).touch()
    (tmp_path / "d-validation.tfrecord-00000-of-00001").touch()
    names = [path.name for path in tfrecord.shards(tmp_path, "train")]
    assert names == ["d-train.tfrecord-00000-of-00002", "d-train.tfrecord-00001-of-00002"]
    with pytest.raises(UserError, match=r"TFRecord shards of split 'test'"):
        tfrecord.shards(tmp_path, "test")
