"""TFDS question sets: one `tf.train.Example` per question, with its image."""

from collections.abc import Collection, Iterator, Sequence

from vla_jax.core.errors import UserError
from vla_jax.data import schema, tfrecord
from vla_jax.data.flaw import Flaw
from vla_jax.data.web import formats
from vla_jax.data.web.formats import Fields, Format, Place, Row
from vla_jax.runtime import storage
from vla_jax.runtime.storage import Files

_IMAGE = "image"


class Tfds(Format):
    """A TFDS version directory whose records have the image feature `image`."""

    suffix = ".tfrecord"

    def files(self, directory: str, split: str) -> list[str]:
        """Returns the shards that the dataset's metadata lists.

        Raises:
          UserError: no such split, or shards are missing.
        """
        shards = schema.read_split(directory, split).shards
        return [storage.join(directory, shard) for shard in shards]

    def counts(self, directory: str, split: str) -> Sequence[int] | None:
        """Returns the records of each shard, as the dataset's metadata has them."""
        return schema.read_split(directory, split).shard_lengths

    def walk(self, files: Files, k: int, where: str) -> Iterator[Place | Flaw]:
        """Yields every record of the shard."""

        def read(start: int, end: int) -> bytes:
            return files.read(k, start, end)

        for number, record in enumerate(tfrecord.records(read, files.size(k), where)):
            name = f"{where}, record {number}"
            data = record.buffer[record.start : record.end]
            try:
                first, last = _image(data, name)
            except UserError as error:
                yield Flaw(kind="record", place=name, reason=str(error))
                continue
            row = Row(record.offset, len(data), first, last, 0, len(data))
            yield Place(name, row, data)

    def fields(self, text: bytes, is_plain: bool, names: Collection[str], where: str) -> Fields:
        """Reads the text features of the record."""
        del is_plain
        fields: dict[str, list[str] | None] = {}
        for name, (kind, start, end) in _features(text, where).items():
            fields[name] = None
            if name in names and kind == tfrecord.BYTES:
                spans = _spans(text, start, end, where)
                place = f"{where}, feature {name!r}"
                fields[name] = [formats.decode(text[first:last], place) for first, last in spans]
        return fields


def _features(record: bytes, where: str) -> dict[str, tuple[int, int, int]]:
    try:
        return tfrecord.features(record, 0, len(record))
    except (ValueError, IndexError) as error:
        raise _damaged(error, where) from error


def _spans(record: bytes, start: int, end: int, where: str) -> list[tuple[int, int]]:
    try:
        return tfrecord.spans(record, start, end)
    except (ValueError, IndexError) as error:
        raise _damaged(error, where) from error


def _damaged(error: Exception, where: str) -> UserError:
    return UserError(
        f"{where}: {error}",
        expected="a tf.train.Example",
        fix=tfrecord.AGAIN,
    )


def _image(record: bytes, where: str) -> tuple[int, int]:
    """Returns (start, end) of the encoded image.

    Raises:
      UserError: the record has none, or several.
    """
    found = _features(record, where)
    kind, start, end = found.get(_IMAGE, (tfrecord.BYTES, 0, 0))
    spans = _spans(record, start, end, where) if kind == tfrecord.BYTES else []
    if len(spans) != 1:
        raise UserError(
            f"{where}: feature {_IMAGE!r}",
            expected="one encoded image",
            found=f"{len(spans)}; the features are {', '.join(sorted(found))}",
        )
    return spans[0]
