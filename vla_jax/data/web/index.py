"""Where every example of a question set lies: one row per example, made in one pass, kept on disk.

    index.json   what it was made of, the fingerprint; size and checksum of the rows
    rows.npy     per example: file, start, length and checksum, and where image and texts lie in it

The pass reads and checks all texts, so that a bad example is told before anything trains; the rows
alone are kept, 40 bytes per example, memory-mapped.
"""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from awscrt.checksums import crc32c

from vla_jax.core import paths
from vla_jax.core.arrays import Int
from vla_jax.core.errors import UserError
from vla_jax.data import fresh_folder, index_files, sealed, tfrecord
from vla_jax.data.episode_walk import OnCorrupt
from vla_jax.data.flaw import Flaw, refuse
from vla_jax.data.sealed import DamagedError, Sealed
from vla_jax.data.web.formats import Format, Place, Row
from vla_jax.data.web.layouts import Layout, Texts
from vla_jax.runtime import progress, storage
from vla_jax.runtime.storage import Files

OnProgress = Callable[[str, int, int], None]

_VERSION = 5
_MOST_FLAWS = 1_000_000  # each is kept by name
_ROWS = "rows.npy"
_TOGETHER = 1 << 14  # rows kept in memory before they are written
_DTYPE = np.dtype(
    [("file", "<i4"), ("crc32c", "<u4"), ("start", "<i8"), ("length", "<u4")]
    + [(name, "<u4") for name in Row._fields[2:-1]]
    + [("is_plain", "?")],
    align=True,
)


class ExampleIndex:
    """The examples of one split, opened.

    Args:
      files: its files.
      opened: the folder of the index.

    Attributes:
      files: as given.
      fingerprint: changes when the texts, their order or the sizes of the images change.
      flaws: what was left out because it cannot be used.
    """

    def __init__(self, files: Files, opened: Sealed):
        self.files, self._opened, self._rows = files, opened, opened.load(_ROWS)
        self.fingerprint: str = opened.values["fingerprint"]
        self._has_checksums: bool = opened.values["has_checksums"]
        self.flaws = tuple(Flaw(**flaw) for flaw in opened.values["flaws"])

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._rows)

    def locate(self, i: int) -> tuple[int, Row]:
        """Returns the number of the file that example `i` is in, and where it lies there."""
        file, _, *row = self._rows[i].item()
        return file, Row(*row)

    def check(self, i: int, data: bytes, where: str) -> None:
        """Compares the bytes of example `i`, once read, with those that were indexed.

        Args:
          i: number of the example.
          data: all that `locate` says, and what the format keeps beside it.
          where: the example, for messages.

        Raises:
          UserError: they are others; names the example.
        """
        self._opened.raise_if_damaged()
        if self._has_checksums and crc32c(data) != self._rows["crc32c"][i]:
            raise UserError(
                f"{where}: has changed since it was indexed (wrong checksum)", fix=tfrecord.AGAIN
            )

    def spans(self, examples: Int[np.ndarray, " n"]) -> Int[np.ndarray, "n 3"]:
        """Returns file, first byte and end of examples."""
        rows = self._rows[examples]
        return np.stack([rows["file"], rows["start"], rows["start"] + rows["length"]], axis=1)

    def runs(self, part: range) -> Int[np.ndarray, " r"]:
        """Returns the lengths of the runs of examples of a part that lie in one file."""
        files = self._rows["file"][part.start : part.stop]
        return np.diff(np.flatnonzero(np.diff(files, prepend=-1)), append=len(part))


def ensure(
    name: str,
    directory: str | os.PathLike[str],
    split: str,
    form: Format,
    layout: Layout,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    on_corrupt: OnCorrupt = "error",
) -> ExampleIndex:
    """Opens the index of a split; builds it when there is none or the files have changed.

    Args:
      name: of the dataset, for messages.
      directory: where the files are, local or remote.
      split: the split.
      form: how the files are read.
      layout: which field is what.
      cache_dir: where to keep the index; None keeps it beside the data.
      on_progress: is told (description, bytes done, bytes in all).
      on_corrupt: whether what is damaged, or lacks image, question or answer, is an error, or is
        left out and known by `ExampleIndex.flaws`.

    Raises:
      UserError: no files of the split, no example in them, or a bad one that is an error.
    """
    directory = paths.expand(directory)
    files = Files(form.files(directory, split))
    made_of = {
        "version": _VERSION,
        "format": type(form).__name__,
        "layout": repr(layout),
        "files": [_stamp(files, k) for k in range(len(files))],
    }
    key = hashlib.sha256(repr(layout).encode()).hexdigest()[:8]
    folders = index_files.candidates(directory, f"{split}.{key}", cache_dir)
    for folder in folders:
        if (found := _open(folder, name, files, made_of)) is not None:
            if found.flaws and on_corrupt == "error":
                raise refuse(found.flaws)
            return found
    counts = form.counts(directory, split)
    with fresh_folder.replacing(folders[0], is_cache=cache_dir is not None) as folder:
        manifest = _build(folder, name, files, form, layout, counts, on_progress, on_corrupt)
        sealed.seal(folder, {"made_of": made_of, **manifest})
    made = _open(folders[0], name, files, made_of)
    if made is None:
        raise DamagedError(f"index {folders[0]}: removed while it was made")
    return made


def _open(folder: pathlib.Path, name: str, files: Files, made_of: dict) -> ExampleIndex | None:
    """Opens a folder; None if there is no sound index of these very files."""
    try:
        opened = Sealed.open(folder)
        if opened is None:
            return None
        before = opened.values.get("made_of")
        if before == made_of:
            return ExampleIndex(files, opened)
    except DamagedError as error:
        progress.note(f"{error} It is not used")
        return None
    if isinstance(before, dict) and before["version"] == _VERSION:
        progress.note(f"dataset {name}: its files have changed since they were indexed in {folder}")
    return None


def _stamp(files: Files, k: int) -> list:
    """Returns what tells that a file has changed: name, bytes, time of the last change in ns."""
    path = files.paths[k]
    time = None if storage.is_remote(path) else os.stat(path).st_mtime_ns
    return [path.replace(os.sep, "/").rpartition("/")[2], files.size(k), time]


def _build(
    folder: pathlib.Path,
    name: str,
    files: Files,
    form: Format,
    layout: Layout,
    counts: Sequence[int] | None,
    on_progress: OnProgress | None,
    on_corrupt: OnCorrupt,
) -> dict:
    """Writes the rows and returns what the manifest says of them.

    Raises:
      UserError: as `ensure`.
    """
    sizes = [files.size(k) for k in range(len(files))]
    digest = hashlib.sha256(repr((type(form).__name__, layout)).encode())
    rows, flaws = [], list[Flaw]()
    # Of remote examples only what is read on the way: another request for each would take long.
    has_checksums = form.is_whole or not any(map(storage.is_remote, files.paths))

    with contextlib.closing(index_files.ArrayFile(folder / _ROWS, _DTYPE)) as table:

        def flush(done: int) -> None:
            table.append(np.array(rows, _DTYPE))
            rows.clear()
            if on_progress is not None:
                on_progress(f"index {name}", done, sum(sizes))

        for k, path in enumerate(files.paths):
            count = None if counts is None else counts[k]
            where = f"dataset {name}, shard {path}"
            for found in _examples(form, layout, files, k, where, count):
                if isinstance(found, Flaw):
                    if on_corrupt == "error":
                        raise refuse([found])
                    flaws.append(found)
                    if len(flaws) > _MOST_FLAWS:
                        raise _too_many(name, found)
                    continue
                place, texts = found
                image = place.row.image_end - place.row.image_start
                digest.update(repr((texts, image)).encode())
                rows.append(
                    (k, _checksum(form, files, k, place) if has_checksums else 0, *place.row)
                )
                if len(rows) == _TOGETHER:
                    flush(sum(sizes[:k]) + place.row.start)
            flush(sum(sizes[: k + 1]))
        table.finish()
    if not len(sealed.load(folder / _ROWS)):
        raise _none(name, files, flaws)
    return {
        "fingerprint": digest.hexdigest(),
        "has_checksums": has_checksums,
        "flaws": [flaw.to_json() for flaw in flaws],
    }


def _too_many(name: str, last: Flaw) -> UserError:
    return UserError(
        f"dataset {name}: examples that cannot be used",
        expected=f"at most {_MOST_FLAWS:,}",
        found=f"more, the last of them {last.place}: {last.reason.removesuffix('.')}",
        fix="Name the layout that the set has, or mend it",
    )


def _none(name: str, files: Files, flaws: Sequence[Flaw]) -> UserError:
    return UserError(
        f"dataset {name}: no examples",
        expected="at least one",
        found=f"{len(flaws)} that cannot be used, the first: {flaws[0].reason.removesuffix('.')}"
        if flaws
        else f"{len(files)} empty files, the first {files.paths[0]}",
    )


def _examples(
    form: Format, layout: Layout, files: Files, k: int, where: str, count: int | None
) -> Iterator[tuple[Place, Texts] | Flaw]:
    """Yields the examples of a file with their texts, and what is wrong with it."""
    try:
        for place in _walk(form, files, k, where, count):
            if isinstance(place, Flaw):
                yield place
                continue
            try:
                fields = form.fields(place.text, place.row.is_plain, layout.names, place.name)
                texts = layout.read(fields, place.name)
            except UserError as error:
                yield Flaw(kind="record", place=place.name, reason=str(error))
            else:
                yield place, texts
    except UserError as error:
        yield Flaw(kind="file", place=where, reason=str(error))


def _walk(
    form: Format, files: Files, k: int, where: str, count: int | None
) -> Iterator[Place | Flaw]:
    """Yields the examples of a file, and those that are not whole.

    Raises:
      UserError: as `Format.walk`; or they are not as many as the dataset says.
    """
    number = 0
    for place in form.walk(files, k, where):
        yield place
        number += 1
    if count not in (None, number):
        raise UserError(
            where,
            expected=f"{count} examples, as dataset_info.json says",
            found=number,
            fix=tfrecord.AGAIN,
        )


def _checksum(form: Format, files: Files, k: int, place: Place) -> int:
    start, length = place.row.start, place.row.length
    whole = len(place.text) == length
    data = place.text if whole else files.read(k, start, start + length)
    beside = form.beside(data, files.paths[k], place.name)
    return crc32c(beside, crc32c(data))
