"""TFRecord framing without TensorFlow: TensorFlow reads it, and finds every broken byte."""

import os

import numpy as np
import pytest

from vla_jax.envs.tabletop import records

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def test_checksum_of_the_standard_vectors():
    # RFC 3720, appendix B.4.
    vectors = {
        bytes(32): 0x8A9136AA,
        b"\xff" * 32: 0x62A8AB43,
        bytes(range(32)): 0x46DD794E,
        bytes(range(31, -1, -1)): 0x113FDB5C,
    }
    assert [int(v) for v in records.crc32c(list(vectors))] == list(vectors.values())


def test_checksums_side_by_side_are_those_of_each_alone():
    rng = np.random.default_rng(0)
    lengths = [4, 5, 1023, 1024, 1025, 2048, 5000]
    batch = [rng.bytes(length) for length in lengths]
    together = records.crc32c(batch)
    assert [int(v) for v in together] == [int(records.crc32c([one])[0]) for one in batch]
    assert len(set(together.tolist())) == len(batch)


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
