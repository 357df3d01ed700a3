"""The manifest of a folder: `manifest.json` has the SHA-256 of every file that acting depends on.

    python exported_manifest.py FOLDER

accepts the files of a folder as they are now, for one who changed them on purpose. The part of a
stand-alone policy that knows whether its files are as they were written; it is copied into every
export, and a run keeps its own policy's files in the same way. Needs nothing but Python.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Mapping

FILE = "manifest.json"
_BLOCK = 1 << 20  # bytes that are read at once
_DIGEST = re.compile("[0-9a-f]{64}")
_NAME = re.compile(r"(?!.*(^|/)\.{0,2}(/|$))[^\\:\0\n]+")  # relative, without `..`


def digest(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file, which is read block by block."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def digests(folder: pathlib.Path, names: list[str]) -> dict[str, str]:
    """Returns the digests of files below a folder by name; several are read at a time.

    Raises:
      OSError: a file cannot be read.
    """
    with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing lets other threads run
        return dict(zip(names, pool.map(digest, [folder / name for name in names]), strict=True))


def write(folder: pathlib.Path, of: Mapping[str, str]) -> None:
    """Writes manifest.json, whole or not at all.

    Args:
      folder: where.
      of: digests by name.
    """
    text = json.dumps({"sha256": dict(sorted(of.items()))}, indent=2) + "\n"
    partial = folder / f".{FILE}.partial"
    partial.write_text(text)
    os.replace(partial, folder / FILE)


def read(folder: pathlib.Path) -> dict[str, str]:
    """Returns the digests that manifest.json holds.

    Raises:
      ValueError: it is damaged.
      OSError: it cannot be read.
    """
    path = folder / FILE
    try:
        of = json.loads(path.read_bytes())["sha256"]
        sound = all(_NAME.fullmatch(name) and _DIGEST.fullmatch(of[name]) for name in of)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound, of = False, {}
    if not sound or not of:
        raise ValueError(f"{path}: expected the SHA-256 of files by name, found something else")
    return of


def verify(folder: str | os.PathLike[str], needed: tuple[str, ...] = ("policy.json",)) -> list[str]:
    """Compares a folder's files with its manifest.

    Args:
      folder: what holds them.
      needed: files that have to be in the manifest.

    Returns:
      The names of the files, as the manifest has them.

    Raises:
      ValueError: a file differs, is missing or cannot be read, or the manifest is damaged or gone;
        names the file, and says how to accept it if it was changed on purpose.
    """
    folder = pathlib.Path(folder).expanduser()
    try:
        of = read(folder)
        if absent := [name for name in needed if name not in of]:
            raise ValueError(f"{folder / FILE}: it says nothing of {absent[0]}")
        found = digests(folder, list(of))
    except OSError as error:
        place = error.filename or folder
        raise ValueError(
            f"{place}: {error.strerror}; it was written with the policy in {folder}"
        ) from error
    if wrong := [name for name, wanted in of.items() if found[name] != wanted]:
        places = [str(pathlib.Path(path).absolute()) for path in (__file__, folder)]
        others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(
            f"{folder / wrong[0]}{others}: not as it was written (SHA-256 "
            f"{found[wrong[0]][:12]}..., expected {of[wrong[0]][:12]}...); copy it again, or "
            f"accept the change: {shlex.join(['python', *places])}"
        )
    return list(of)


def accept(folder: str | os.PathLike[str]) -> list[str]:
    """Writes the manifest anew, of the files as they are; those that are gone are left out.

    Returns:
      The names of what it has.

    Raises:
      ValueError: the manifest is damaged.
      OSError: it cannot be read or written.
    """
    folder = pathlib.Path(folder).expanduser()
    names = [name for name in read(folder) if (folder / name).is_file()]
    write(folder, digests(folder, names))
    return names


if __name__ == "__main__":
    given = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__)
    try:
        accepted = accept(given if given.is_dir() or len(sys.argv) > 1 else given.absolute().parent)
    except (ValueError, OSError) as error:
        sys.exit(f"exported_manifest: {' '.join(str(error).split())}")
    sys.stdout.write(f"accepted {len(accepted)} files: {', '.join(accepted)}\n")
