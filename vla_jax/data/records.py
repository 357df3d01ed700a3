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
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from awscrt.checksums import crc32c

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_MASK_DELTA = 0xA282EAD8
_BYTES_PER_SHARD = 200_000_000  # in the range that TFDS advises, 100 to 200 MB


def import_tfds() -> Any:
    """Imports TFDS, quietly: neither it nor a TensorFlow it may load writes to the log."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow_datasets as tfds  # noqa: PLC0415

    return tfds


@contextlib.contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """Yields an empty folder that becomes `directory` when the block ends well.

    It lies beside, so that the change of name is one step. When the block fails, it and the
    folders made to hold it are removed.

    Args:
      directory: must not exist; its parents are made.

    Raises:
      OSError: the file system refuses, or something has taken the name meanwhile.
    """
    made = [parent for parent in directory.parents if not parent.exists()]  # the inner first
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{directory.name}.partial-", dir=directory.parent))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp's folders are closed to others
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # a folder that is not empty stays
            for parent in made:
                parent.rmdir()


def write_dataset(
    directory: Path,
    *,
    name: str,
    features: "tfds.features.FeaturesDict",
    splits: Mapping[str, tuple[Iterable[dict[str, Any]], int | None]],
    examples_per_shard: int | None = None,
    version: str,
    description: str | Callable[[], str],
) -> None:
    """Writes every split's shards, then `features.json` and `dataset_info.json`.

    Args:
      directory: an existing, empty directory; the metadata names no path, so it can be moved.
      name: the dataset's name.
      features: how an example is encoded.
      splits: per split its examples and how many they are; None where that is not known.
      examples_per_shard: examples in every shard but the last; by default a shard ends with the
        example that fills 200 MB.
      version: the dataset's version, e.g. `1.0.0`.
      description: one paragraph, stored in the metadata; or what gives it, asked when all
        examples are written.

    Raises:
      OSError: the file system refuses; a full disk says how many bytes are needed.
    """
    tfds = import_tfds()
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    infos = []
    for split, (examples, total) in splits.items():
        with _Shards(directory / f"{name}-{split}.tfrecord", examples_per_shard, total) as shards:
            for example in examples:
                proto = serializer.get_tf_example(features.encode_example(example))
                # Deterministic: the order of a serialised map is otherwise up to the process.
                shards.write(proto.SerializeToString(deterministic=True))
        infos.append(
            tfds.core.SplitInfo(name=split, shard_lengths=shards.lengths, num_bytes=shards.size)
        )
    with contextlib.redirect_stdout(io.StringIO()):
        tfds.folder_dataset.write_metadata(
            data_dir=directory,
            features=features,
            split_infos=infos,
            version=version,
            check_data=False,
            description=description if isinstance(description, str) else description(),
        )


class _Shards:
    """A split's shards, one open at a time.

    A shard's name says how many there are, which only the end of the stream tells: they get
    their names then.

    Attributes:
      lengths: records in each shard so far.
      size: bytes of all records.
    """

    def __init__(self, prefix: Path, per_shard: int | None, total: int | None):
        self.lengths: list[int] = []
        self.size = 0
        self._prefix = prefix
        self._per_shard = per_shard
        self._total = total
        self._file: BinaryIO | None = None

    def __enter__(self) -> "_Shards":
        return self

    def write(self, record: bytes) -> None:
        """Appends a record."""
        if self._file is None or self._is_full():
            self._begin()
        assert self._file is not None
        self.lengths[-1] += 1
        self.size += len(record)
        self._shard_size += len(record)
        with self._explain_full_disk():
            self._file.writelines(frame([record]))

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and not self.lengths:
            self._begin()  # a split without examples is one empty shard
        self._close(quietly=kind is not None)
        if kind is None:
            count = len(self.lengths)
            for shard in range(count):
                os.rename(self._path(shard), f"{self._prefix}-{shard:05d}-of-{count:05d}")

    def _is_full(self) -> bool:
        if self._per_shard is None:
            return self._shard_size >= _BYTES_PER_SHARD
        return self.lengths[-1] >= self._per_shard

    def _begin(self) -> None:
        self._close()
        self._file = open(self._path(len(self.lengths)), "wb")  # noqa: SIM115
        self._shard_size = 0
        self.lengths.append(0)

    def _close(self, *, quietly: bool = False) -> None:
        """Closes the open shard; `quietly` where another error is already on its way."""
        if self._file is not None:
            refused = contextlib.suppress(OSError) if quietly else self._explain_full_disk()
            with refused:
                self._file.close()

    def _path(self, shard: int) -> str:
        return f"{self._prefix}-{shard:05d}.partial"

    @contextlib.contextmanager
    def _explain_full_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            free = shutil.disk_usage(self._prefix.parent).free
            needed = "more"
            if self._total is not None:
                needed = f"about {round(self.size / sum(self.lengths) * self._total)}"
            raise OSError(error.errno, f"{needed} bytes needed, {free} bytes free") from error


def frame(records: Iterable[bytes]) -> Iterator[bytes]:
    """Frames records as TFRecord does: length, its checksum, the bytes, their checksum."""
    for record in records:
        header = struct.pack("<Q", len(record))
        yield header + struct.pack("<I", masked_crc32c(header))
        yield record
        yield struct.pack("<I", masked_crc32c(record))


def masked_crc32c(record: bytes) -> int:
    """The CRC-32C of a record, rotated and shifted as TFRecord stores it."""
    return mask(crc32c(record))


def mask(checksum: int) -> int:
    """Rotates and shifts a CRC-32C as TFRecord stores it."""
    return ((checksum >> 15 | checksum << 17) + _MASK_DELTA) & 0xFFFFFFFF
