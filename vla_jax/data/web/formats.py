"""What a format of question sets has to say: where its examples lie and what texts they hold."""

import abc
import io
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from vla_jax.core.errors import UserError
from vla_jax.data.flaw import Flaw
from vla_jax.runtime import storage
from vla_jax.runtime.storage import Files

_CHUNK = 1 << 20  # bytes read at once on the way through a file

Fields = Mapping[str, list[str] | None]


class Row(NamedTuple):
    """Where one example lies in its file, bytes; one ranged read has all of it.

    Attributes:
      start: its first byte.
      length: its bytes.
      image_start: first byte of the image, counted from `start`.
      image_end: the byte after it; 0 where the image is a file of its own.
      text_start: first byte of what holds the texts, counted from `start`.
      text_end: the byte after it.
      is_plain: whether that is the text itself and not a record of fields.
    """

    start: int
    length: int
    image_start: int
    image_end: int
    text_start: int
    text_end: int
    is_plain: bool = False


class Place(NamedTuple):
    """One example on the way through a file.

    Attributes:
      name: dataset, file and example, for messages.
      row: where it lies.
      text: the part of it that holds the texts.
    """

    name: str
    row: Row
    text: bytes


class Format(abc.ABC):
    """One way of keeping images and texts in files. Stateless."""

    suffix: ClassVar[str]  # of the files' names
    has_images: ClassVar[bool] = True  # in the files themselves
    is_whole: ClassVar[bool] = True  # `walk` reads examples whole, not their texts alone

    def files(self, directory: str, split: str) -> list[str]:
        """Returns the paths of the files of one split, sorted.

        They lie in the folder SPLIT, or beside each other in `directory` with SPLIT as a word of
        their names (`vqa-train-000000.tar`, `train.jsonl`). Files whose names are numbers only
        (`00000.tar`) are all of the split `train`.

        Raises:
          UserError: there is none.
        """
        pattern = f"*{self.suffix}"
        inner = storage.join(directory, split)
        if storage.exists(inner) and (found := storage.names(inner, pattern)):
            return [storage.join(inner, name) for name in found]
        present = storage.names(directory, pattern)
        found = [name for name in present if _is_of(name.removesuffix(self.suffix), split)]
        if not found:
            raise UserError(
                f"dataset {directory}: no files of split {split!r}",
                expected=f"{split}/*{self.suffix} or *{split}*{self.suffix}",
                found=", ".join(present[:5]) + ", ..." * (len(present) > 5) or "none",
                fix="Name the right split, directory or format in the configuration",
            )
        return [storage.join(directory, name) for name in found]

    def counts(self, directory: str, split: str) -> Sequence[int] | None:
        """Returns how many examples each file should have; None where nothing says so."""
        del directory, split
        return None

    @abc.abstractmethod
    def walk(self, files: Files, k: int, where: str) -> Iterator[Place | Flaw]:
        """Yields the examples of a file, in order, reading it once from front to back.

        An example that is not whole is yielded as what is wrong with it.

        Args:
          files: the files of the split.
          k: number of the file.
          where: dataset and file, for messages.

        Raises:
          UserError: the rest of the file cannot be read.
        """

    @abc.abstractmethod
    def fields(self, text: bytes, is_plain: bool, names: Collection[str], where: str) -> Fields:
        """Reads the fields of one example.

        Args:
          text: the part of the example that holds the texts.
          is_plain: as in Row.
          names: the fields whose texts are wanted.
          where: the example, for messages.

        Returns:
          field -> its texts; None for a field that is not wanted or no text.

        Raises:
          UserError: it is damaged or not UTF-8.
        """

    def image(self, data: bytes, row: Row, path: str, where: str) -> bytes:
        """Returns the encoded image of one example.

        Args:
          data: the example's bytes.
          row: where the parts lie.
          path: the file the example is in.
          where: the example, for messages.

        Raises:
          UserError: it cannot be read.
        """
        del path, where
        return data[row.image_start : row.image_end]

    def beside(self, data: bytes, path: str, where: str) -> bytes:
        """Returns what an example's checksum covers in files of their own; see `image`."""
        del data, path, where
        return b""


class _Ranges(io.RawIOBase):
    """A file that is read by ranges, as Python's own readers want it."""

    def __init__(self, files: Files, k: int):
        self._files, self._k, self._position, self._size = files, k, 0, files.size(k)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._size)
        data = self._files.read(self._k, self._position, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def stream(files: Files, k: int) -> io.BufferedReader:
    """Opens file `k`, local or remote, for one pass from front to back."""
    return io.BufferedReader(_Ranges(files, k), _CHUNK)


def decode(text: bytes, where: str) -> str:
    """Decodes UTF-8.

    Raises:
      UserError: it is none.
    """
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8",
            expected="text in UTF-8",
            found=f"byte {text[error.start]:#04x} after {text[: error.start][-20:]!r}",
            fix="Convert the file to UTF-8",
        ) from error


def _is_of(stem: str, split: str) -> bool:
    if split in (stem, *re.split(r"[^A-Za-z0-9]+", stem)):
        return True
    return stem.startswith((f"{split}-", f"{split}_")) or (split == "train" and stem.isdigit())
