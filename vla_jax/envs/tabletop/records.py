"""Writes a TFDS dataset directory: TFRecord shards plus the metadata that TFDS reads them by.

The features and the metadata are TFDS' own; only the record framing (length, checksum, bytes) is
done here, so that generating data does not import TensorFlow. `tfds.builder_from_directory`
reads the result.

Source: the TFRecord format, https://www.tensorflow.org/tutorials/load_data/tfrecord; CRC-32C,
RFC 3720 appendix B.4.
"""

import contextlib
import errno
import functools
import io
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_POLYNOMIAL = 0x82F63B78  # CRC-32C, bits reversed
_MASK_DELTA = 0xA282EAD8
_CHUNK = 1024  # bytes of a record that are checksummed side by side with other records' bytes


def import_tfds() -> Any:
    """Imports TFDS, quietly: neither it nor a TensorFlow it may load writes to the log."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow_datasets as tfds  # noqa: PLC0415

    return tfds


def write_dataset(
    directory: Path,
    *,
    name: str,
    features: "tfds.features.FeaturesDict",
    splits: Mapping[str, tuple[Iterable[dict[str, Any]], int]],
    examples_per_shard: int,
    version: str,
    description: str,
) -> None:
    """Writes every split's shards, then `features.json` and `dataset_info.json`.

    Args:
      directory: an existing, empty directory; the metadata names no path, so it can be moved.
      name: the dataset's name.
      features: how an example is encoded.
      splits: per split its examples and how many they are.
      examples_per_shard: examples in every shard but the last.
      version: the dataset's version, e.g. `1.0.0`.
      description: one paragraph, stored in the metadata.

    Raises:
      OSError: the file system refuses; a full disk says how many bytes are needed.
    """
    tfds = import_tfds()
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    infos = []
    for split, (examples, total) in splits.items():
        # Deterministic: the order of a serialised map is otherwise up to the process.
        records = (
            serializer.get_tf_example(features.encode_example(example)).SerializeToString(
                deterministic=True
            )
            for example in examples
        )
        lengths, size = _write_shards(
            directory / f"{name}-{split}.tfrecord", records, total, examples_per_shard
        )
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size))
    with contextlib.redirect_stdout(io.StringIO()):
        tfds.folder_dataset.write_metadata(
            data_dir=directory,
            features=features,
            split_infos=infos,
            version=version,
            check_data=False,
            description=description,
        )


def _write_shards(
    prefix: Path, records: Iterator[bytes], total: int, per_shard: int
) -> tuple[list[int], int]:
    """Writes `total` records and returns the number of records per shard and their bytes."""
    count = max(1, -(-total // per_shard))
    lengths, size = [], 0
    for shard in range(count):
        wanted = min(per_shard, total - shard * per_shard)
        batch = [next(records) for _ in range(wanted)]
        lengths.append(len(batch))
        size += sum(map(len, batch))
        try:
            with open(f"{prefix}-{shard:05d}-of-{count:05d}", "wb") as file:
                file.writelines(frame(batch))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            needed = round(size / sum(lengths) * total)
            free = shutil.disk_usage(prefix.parent).free
            raise OSError(error.errno, f"about {needed} bytes needed, {free} bytes free") from error
    return lengths, size


def frame(records: Sequence[bytes]) -> Iterator[bytes]:
    """Frames records as TFRecord does: length, its checksum, the bytes, their checksum."""
    headers = [struct.pack("<Q", len(record)) for record in records]
    for header, header_check, record, check in zip(
        headers, masked_crc32c(headers), records, masked_crc32c(records), strict=True
    ):
        yield header + struct.pack("<I", header_check) + record + struct.pack("<I", check)


def masked_crc32c(records: Sequence[bytes]) -> list[int]:
    """The checksum of each record, rotated and shifted as TFRecord stores it.

    Args:
      records: byte strings of at least four bytes.

    Returns:
      One unsigned 32-bit value per record.
    """
    checks = crc32c(records).astype(np.uint64)
    rotated = (checks >> 15 | checks << 17) & 0xFFFFFFFF
    return [int(value) for value in (rotated + _MASK_DELTA) & 0xFFFFFFFF]


def crc32c(records: Sequence[bytes]) -> np.ndarray:
    """CRC-32C of many records at once.

    A checksum is a chain over bytes, so one record alone cannot be vectorised. It is also linear:
    each chunk's checksum is computed from zero, all chunks of all records side by side, and a
    record's chunks are then chained with the operator that appends one chunk of zeros.

    Args:
      records: byte strings of at least four bytes.

    Returns:
      uint32 [records].
    """
    table, append_chunk = _tables()
    counts = [-(-len(record) // _CHUNK) for record in records]
    padded = bytearray()
    for record, count in zip(records, counts, strict=True):
        # Zeros in front leave a zero register zero; the initial value of all ones is the same
        # as inverting the record's first four bytes.
        padded += bytes(count * _CHUNK - len(record))
        padded += bytes(byte ^ 0xFF for byte in record[:4]) + record[4:]
    columns = np.frombuffer(padded, np.uint8).reshape(-1, _CHUNK).T.copy()
    chunks = np.zeros(columns.shape[1], np.uint32)
    for column in columns:
        chunks = table[(chunks ^ column) & 0xFF] ^ (chunks >> 8)
    starts = np.cumsum([0, *counts[:-1]])
    result = np.zeros(len(records), np.uint32)
    for position in range(max(counts, default=0)):
        active = np.array(counts) > position
        value = result[active]
        appended = functools.reduce(
            np.bitwise_xor, (append_chunk[k][(value >> (8 * k)) & 0xFF] for k in range(4))
        )
        result[active] = appended ^ chunks[starts[active] + position]
    return result ^ np.uint32(0xFFFFFFFF)


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """The byte table, uint32 [256], and the operator of `_CHUNK` zero bytes, uint32 [4, 256]."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    operator = np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, None]
    for _ in range(_CHUNK):
        operator = table[operator & 0xFF] ^ (operator >> 8)
    return table, operator
