"""TFRecord framing without TensorFlow: TensorFlow reads it, and finds every broken byte."""

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
