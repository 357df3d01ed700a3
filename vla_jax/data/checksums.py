"""CRC32C of records and of the images in them, each byte read once.

The checksum that runs from the beginning of a record to its end is noted before and after each
image. The last of all is the record's own, and two notes are enough to check one image again when
it alone is read.
"""

import itertools
from typing import Any

import numpy as np
from awscrt.checksums import crc32c

from vla_jax.core.arrays import Int
from vla_jax.data import records, tfrecord


def trace(record: tfrecord.Record, spans: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, "n 2"] | None:
    """Checks a record and returns what checks its images.

    Args:
      record: the record.
      spans: of each image: first byte, counted from the record's, and bytes.

    Returns:
      uint32 [n, 2], of each image: the running checksum before and after it; None where the
      record's own checksum says that it is damaged.
    """
    view: Any = memoryview(record.buffer)  # its slices are no copies; awscrt takes any buffer
    order = np.argsort(spans[:, 0], kind="stable")
    edges = np.cumsum(spans[order], axis=1).ravel() + record.start
    pieces = itertools.pairwise([record.start, *edges.tolist(), record.end])
    checksum = 0
    running = [checksum := crc32c(view[start:end], checksum) for start, end in pieces]
    if records.mask(checksum) != int.from_bytes(record.crc, "little"):
        return None
    notes = np.empty((len(spans), 2), np.uint32)
    notes[order] = np.array(running[:-1], np.uint32).reshape(-1, 2)
    return notes


def is_sound(image: bytes, before: int, after: int) -> bool:
    """Whether an image is what it was when its record was traced."""
    return crc32c(image, before) == after
