"""CRC32C of records and of the images in them, each byte read once.

The checksum that runs from the beginning of a record to its end is noted before and after each
image. The last of all is the record's own, and two notes are enough to check one image again when
it alone is read.
"""

import google_crc32c
import numpy as np

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
    # numpy's slices, unlike those of a bytearray, are no copies.
    view, extend = np.frombuffer(record.buffer, np.uint8)[: record.end], google_crc32c.extend
    checksum, position, notes = 0, record.start, []
    order = np.argsort(spans[:, 0], kind="stable")
    for start, length in (spans[order] + [record.start, 0]).tolist():
        before = extend(checksum, view[position:start])
        position = start + length
        checksum = extend(before, view[start:position])
        notes.append((before, checksum))
    if records.mask(extend(checksum, view[position:])) != int.from_bytes(record.crc, "little"):
        return None
    out = np.empty((len(notes), 2), np.uint32)
    out[order] = np.array(notes, np.uint32).reshape(-1, 2)
    return out


def is_sound(image: bytes, before: int, after: int) -> bool:
    """Whether an image is what it was when its record was traced."""
    return google_crc32c.extend(before, image) == after
