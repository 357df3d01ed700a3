"""Writes a TFDS dataset directory: TFRecord shards plus the metadata that TFDS reads them by.

The features and the metadata are TFDS' own; only the record framing (length, checksum, bytes) is
done here, so that generating data does not import TensorFlow. `tfds.builder_from_directory`
reads the result.

Source: the TFRecord format, https://www.tensorflow.org/tutorials/load_data/tfrecord.
"""

import contextlib
import errno
import io
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_MASK_DELTA = 0xA282EAD8


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


def frame(records: Iterable[bytes]) -> Iterator[bytes]:
    """Frames records as TFRecord does: length, its checksum, the bytes, their checksum."""
    for record in records:
        header = struct.pack("<Q", len(record))
        yield header + struct.pack("<I", masked_crc32c(header))
        yield record
        yield struct.pack("<I", masked_crc32c(record))


def masked_crc32c(record: bytes) -> int:
    """The CRC-32C of a record, rotated and shifted as TFRecord stores it."""
    check = google_crc32c.value(record)
    return ((check >> 15 | check << 17) + _MASK_DELTA) & 0xFFFFFFFF
