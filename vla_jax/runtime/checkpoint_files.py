"""The files of checkpoints: listed with their checksums before the commit, compared before a read.

`FILES.json` of a checkpoint has the bytes and the CRC32C of every file and what Orbax's metadata
says (the loader state among it), with a checksum of itself. Orbax and tensorstore have checksums of
their own for the index of a file at most, never for the bytes of an array.

In a job of several processes each one reads its share: when saving the files that it wrote, when
restoring the n-th part of all.
"""

import concurrent.futures
import contextlib
import json
import os
import re
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from awscrt.checksums import crc32c
from etils import epath

from vla_jax.core import errors, json_file
from vla_jax.core.errors import UserError
from vla_jax.runtime import peers, progress

PARAMS, TRAINING = ITEMS = ("params", "training")  # the trees of a checkpoint
LIST = "FILES.json"
# What Orbax writes after the list, at the commit.
_COMMIT = "commit_success.txt"
_METADATA = "_CHECKPOINT_METADATA"
_READ = ("custom_metadata", "item_handlers")  # the rest are times
_NAMES = "names"  # of all fields
_PATIENCE = 300  # seconds
_ASIDE = ".damaged"
_PART = re.compile(r"FILES\.process_\d+\.json")  # checksums of one process, until they are joined
_OWNER = re.compile(r"/ocdbt\.process_(\d+)/")
_PIECE = 2**20  # bytes, so that no other thread waits long for the interpreter
_THREADS = 8  # reads under way

Checksums = Mapping[str, tuple[int, int | None]]  # bytes and CRC32C of a file, by its path


def steps(directory: epath.Path) -> list[int]:
    """Returns the steps of the checkpoints that were committed, in order."""
    found = [path for path in directory.iterdir() if path.name.isdigit()]
    if "://" in os.fspath(directory):  # elsewhere the name itself is the commit
        found = [path for path in found if (path / _COMMIT).exists()]
    return sorted(int(path.name) for path in found)


def record_part(directory: epath.Path, step: int) -> None:
    """Writes the checksums of what this process has written of a checkpoint of several.

    Args:
      directory: of all checkpoints.
      step: whose.

    Raises:
      OSError: the file system refuses.
    """
    if peers.is_first():
        return  # Its share is listed with what all share, in `record`.
    written = _growing(directory, step)
    mine = {name: path for name, path in _files(written).items() if _owner(name) == peers.index()}
    part = written / f"FILES.process_{peers.index()}.json"
    part.write_text(json.dumps(_checksums(mine)))


def record(directory: epath.Path, step: int, custom: Mapping[str, Any]) -> None:
    """Writes the list of a checkpoint that is complete but for its commit, in the first process.

    Args:
      directory: of all checkpoints.
      step: whose.
      custom: what Orbax was given to write into its metadata.

    Raises:
      OSError: the file system refuses, or Orbax has not written its metadata.
    """
    written = _growing(directory, step)
    files = _files(written)
    sums: dict[str, Any] = {}
    for part in [path for path in written.iterdir() if _PART.fullmatch(path.name)]:
        sums |= json.loads(part.read_text())
        part.unlink()
    sums |= _checksums({name: path for name, path in files.items() if name not in sums})
    listed = {
        "metadata": _written_metadata(written / _METADATA, custom),
        "files": {name: sums[name] for name in files},
    }
    text = json.dumps({"crc32c": _digest(listed), "list": listed}, indent=0)
    (written / LIST).write_text(text)


def damage(directory: epath.Path, items: Collection[str]) -> str | None:
    """Returns what is wrong with one checkpoint, None where nothing is.

    One without a list, from before there were lists, is taken to be whole. All processes call this
    at once. It costs a `stat` per file, and reads the files of `items`.

    Args:
      directory: the checkpoint.
      items: the trees whose bytes are compared; of the others it is the sizes alone.
    """
    return next(filter(None, peers.gather("damage", _damage(directory, items))), None)


def damaged(directory: epath.Path, items: Collection[str], *, all_steps: bool) -> list[int]:
    """Returns the steps of the damaged checkpoints newer than the newest whole one; notes them.

    Args:
      directory: of all checkpoints.
      items: as for `damage`, of the newest.
      all_steps: whether those that are older are looked at as well, but for their arrays.

    Raises:
      UserError: there are checkpoints, and all are damaged.
    """
    found, out = steps(directory), []
    newest: int | None = None
    for step in reversed(found):
        if newest is not None and not all_steps:
            break
        reason = damage(directory / str(step), items if newest is None else ())
        if reason is not None:
            progress.note(f"checkpoint {directory / str(step)} is damaged: {reason}")
            out.append(step)
        elif newest is None:
            newest = step
            if out:
                progress.note(f"the checkpoint before it is used: {directory / str(step)}")
    if out and newest is None:
        raise UserError(
            f"checkpoints in {directory}",
            expected="a whole one",
            found=f"only damaged ones (steps {errors.listed(found)})",
            fix="Restore the files of one of them, or begin anew in another --workdir",
        )
    return out


def set_aside(directory: epath.Path, steps: Sequence[int]) -> None:
    """Renames checkpoints to STEP.damaged, so that their steps can be saved again.

    To be called by all processes at once; the first one renames.
    """
    peers.wait("all know the damaged checkpoints")
    if peers.is_first():
        for step in steps:
            aside = directory / f"{step}{_ASIDE}"
            if aside.exists():
                aside.rmtree()
            (directory / str(step)).rename(aside)
    peers.wait("damaged checkpoints are set aside")


def _damage(directory: epath.Path, items: Collection[str]) -> str | None:
    try:
        if not (directory / LIST).exists():
            progress.note(f"checkpoint {directory} is of an older version: no checksums to compare")
            return None
        expected = _expected(directory)
        files = _files(directory)
        sizes = {name: files[name].stat().length for name in expected if name in files}
    except UserError as error:
        return str(error).removesuffix(".")
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    for name, (size, _) in expected.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != size:
            return f"{name} has {sizes[name]} of {size} bytes"
    looked_at = {
        name: path
        for name, path in _share(files, sizes).items()
        if expected[name][1] is not None and ("/" not in name or _is_read(name, items))
    }
    try:
        found = _checksums(looked_at)
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    changed = [name for name, (_, crc) in found.items() if crc != expected[name][1]]
    return f"{changed[0]} is not as it was written" if changed else None


def _is_read(name: str, items: Collection[str]) -> bool:
    """Whether a file belongs to one of the trees, or to none: what is small is always read."""
    item = name.partition("/")[0]
    return item in items or item not in ITEMS


def _share(files: Mapping[str, epath.Path], sizes: Mapping[str, int]) -> dict[str, epath.Path]:
    """Returns the files that this process compares, about as many bytes as each other one."""
    dealt = sorted(sizes, key=lambda name: (-sizes[name], name))
    return {name: files[name] for name in dealt[peers.index() :: peers.count()]}


def _expected(directory: epath.Path) -> Checksums:
    """Reads the list.

    Raises:
      UserError: it, or Orbax's metadata, is damaged.
    """
    content = _json(directory, LIST)
    if "list" not in content:  # of a version that had sizes alone
        _json(directory, _METADATA)
        sizes = json_file.convert(content, dict[str, int], LIST)
        progress.note(f"checkpoint {directory} is of an older version: no checksums to compare")
        return {name: (size, None) for name, size in sizes.items()}
    listed = content["list"]
    if _digest(listed) != content.get("crc32c"):
        raise UserError(f"{LIST} is not as it was written")
    metadata = _json(directory, _METADATA)
    names = {_NAMES: sorted(metadata)} if _NAMES in listed["metadata"] else {}
    metadata = {name: metadata.get(name) for name in listed["metadata"]} | names
    if _digest(metadata) != _digest(listed["metadata"]):
        raise UserError(f"{_METADATA} is not as it was written")
    return json_file.convert(listed["files"], dict[str, tuple[int, int | None]], LIST)


def _json(directory: epath.Path, name: str) -> dict[str, Any]:
    try:
        data = (directory / name).read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{name} is missing") from error
    return json_file.decode(data, dict[str, Any], name)


def _written_metadata(path: epath.Path, custom: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those fields of Orbax's metadata that are read, once its thread has written them."""
    wanted, deadline = json.loads(json.dumps(custom)), time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ValueError):  # so far, or half of it
            found = json.loads(path.read_bytes())
            if _digest(found.get("custom_metadata")) == _digest(wanted):
                # The names too: Orbax refuses one that it does not know.
                return {name: found.get(name) for name in _READ} | {_NAMES: sorted(found)}
        time.sleep(0.01)
    raise TimeoutError(f"{path} was not written within {_PATIENCE} s")


def _digest(value: Any) -> int:
    """Returns the CRC32C of a JSON value, however it is spelled."""
    return crc32c(json.dumps(value, sort_keys=True).encode())


def _checksums(files: Mapping[str, epath.Path]) -> dict[str, tuple[int, int]]:
    with concurrent.futures.ThreadPoolExecutor(_THREADS, "checksum") as threads:
        return dict(zip(files, threads.map(_checksum, files.values()), strict=True))


def _checksum(path: epath.Path) -> tuple[int, int]:
    """Returns the bytes of a file and their CRC32C."""
    size, crc = 0, 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            size, crc = size + len(piece), crc32c(piece, crc)
    return size, crc


def _growing(directory: epath.Path, step: int) -> epath.Path:
    """Returns where a checkpoint is written; under its last name where the commit is a file."""
    (path,) = (path for path in directory.iterdir() if _step(path) == step)
    return path


def _step(path: epath.Path) -> int | None:
    """Returns whose directory a path is, also while it is being written."""
    name = path.name.partition(".")[0]
    return int(name) if name.isdigit() and not path.name.endswith(_ASIDE) else None


def _owner(name: str) -> int | None:
    """Returns which process wrote a file alone, by its name; None where several have to do."""
    found = _OWNER.search(f"/{name}")
    return int(found[1]) if found else None


def _files(directory: epath.Path) -> dict[str, epath.Path]:
    """Returns every file below a directory that the list is about, by its path within it."""
    files: dict[str, epath.Path] = {}
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            files |= {f"{path.name}/{name}": file for name, file in _files(path).items()}
        elif path.name not in (LIST, _COMMIT, _METADATA) and not _PART.fullmatch(path.name):
            files[path.name] = path
    return files
