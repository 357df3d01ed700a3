"""Where every example of a question set lies: one row per example, made in one pass, kept on disk.

    index.json   what it was made of, the fingerprint
    rows.npy     per example: file, start and length, and where image and texts lie in it

The pass reads and checks all texts, so that a bad example is told before anything trains; the rows
alone are kept, 40 bytes per example, memory-mapped.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vla_jax.core.arrays import Int
from vla_jax.core.errors import UserError
from vla_jax.data import index_files
from vla_jax.data.episode_walk import OnCorrupt
from vla_jax.data.flaw import Flaw, refuse
from vla_jax.data.web.formats import Format, Place, Row
from vla_jax.data.web.layouts import Layout, Texts
from vla_jax.runtime import storage
from vla_jax.runtime.storage import Files

OnProgress = Callable[[str, int, int], None]

_VERSION = 2
_MOST_NAMED = 10_000  # bad examples that are kept by name
_ROWS = "rows.npy"
_TOGETHER = 1 << 14  # rows kept in memory before they are written
_DTYPE = np.dtype(
    [("file", "<i4"), ("start", "<i8"), ("length", "<u4")]
    + [(name, "<u4") for name in Row._fields[2:-1]]
    + [("is_plain", "?")],
    align=True,
)


class ExampleIndex:
    """The examples of one split, opened.

    Args:
      files: its files.
      rows: [i] of the index's rows.
      fingerprint: changes when the texts, their order or the sizes of the images change.
      flaws: what was left out because it cannot be used.
    """

    def __init__(
        self, files: Files, rows: np.ndarray, fingerprint: str, flaws: Sequence[Flaw] = ()
    ):
        self.files, self._rows, self.fingerprint = files, rows, fingerprint
        self.flaws = tuple(flaws)

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._rows)

    def locate(self, i: int) -> tuple[int, Row]:
        """Returns the number of the file that example `i` is in, and where it lies there."""
        file, *row = self._rows[i].item()
        return file, Row(*row)

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
    directory = os.fspath(directory)
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
        if (found := _open(folder, files, made_of)) is not None:
            if found.flaws and on_corrupt == "error":
                raise refuse(found.flaws)
            return found
    with index_files.replacing(folders[0]) as folder:
        fingerprint, flaws = _build(folder, name, files, form, layout, on_progress, on_corrupt)
        kept = [flaw.to_json() for flaw in flaws]
        manifest = {"made_of": made_of, "fingerprint": fingerprint, "flaws": kept}
        (folder / index_files.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return ExampleIndex(files, index_files.load(folders[0] / _ROWS), fingerprint, flaws)


def _open(folder: pathlib.Path, files: Files, made_of: dict) -> ExampleIndex | None:
    """Opens a folder; None if there is no index of these very files."""
    try:
        manifest = json.loads((folder / index_files.MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if manifest.get("made_of") != made_of:
        return None
    flaws = [Flaw(**flaw) for flaw in manifest["flaws"]]
    return ExampleIndex(files, index_files.load(folder / _ROWS), manifest["fingerprint"], flaws)


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
    on_progress: OnProgress | None,
    on_corrupt: OnCorrupt,
) -> tuple[str, list[Flaw]]:
    """Writes the rows and returns the fingerprint, and what was left out.

    Raises:
      UserError: as `ensure`.
    """
    sizes = [files.size(k) for k in range(len(files))]
    digest = hashlib.sha256(repr((type(form).__name__, layout)).encode())
    rows = []
    flaws: list[Flaw] = []

    with contextlib.closing(index_files.ArrayFile(folder / _ROWS, _DTYPE)) as table:

        def flush(done: int) -> None:
            table.append(np.array(rows, _DTYPE))
            rows.clear()
            if on_progress is not None:
                on_progress(f"index {name}", done, sum(sizes))

        for k, path in enumerate(files.paths):
            for place, texts in _examples(form, layout, files, k, f"dataset {name}, shard {path}"):
                if texts is None:
                    if on_corrupt == "error":
                        raise refuse([place])
                    if len(flaws) < _MOST_NAMED:
                        flaws.append(place)
                    continue
                image = place.row.image_end - place.row.image_start
                digest.update(repr((texts, image)).encode())
                rows.append((k, *place.row))
                if len(rows) == _TOGETHER:
                    flush(sum(sizes[:k]) + place.row.start)
            flush(sum(sizes[: k + 1]))
        table.finish()
    if not len(index_files.load(folder / _ROWS)):
        raise _none(name, files, flaws)
    return digest.hexdigest(), flaws


def _none(name: str, files: Files, flaws: Sequence[Flaw]) -> UserError:
    return UserError(
        f"dataset {name}: no examples",
        expected="at least one",
        found=f"{len(flaws)} that cannot be used, the first: {flaws[0].reason.removesuffix('.')}"
        if flaws
        else f"{len(files)} empty files, the first {files.paths[0]}",
    )


def _examples(
    form: Format, layout: Layout, files: Files, k: int, where: str
) -> Iterator[tuple[Place, Texts] | tuple[Flaw, None]]:
    """Yields the examples of a file with their texts, and what is wrong with it."""
    names = layout.names
    try:
        for place in form.walk(files, k, where):
            if isinstance(place, Flaw):
                yield place, None
                continue
            try:
                fields = form.fields(place.text, place.row.is_plain, names, place.name)
                texts = layout.read(fields, place.name)
            except UserError as error:
                yield Flaw(kind="record", place=place.name, reason=str(error)), None
            else:
                yield place, texts
    except UserError as error:
        yield Flaw(kind="file", place=where, reason=str(error)), None
