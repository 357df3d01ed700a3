"""What can happen to a file: each kind of damage as a function of the file and a generator."""

import copy
import dataclasses
import io
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class Damage:
    """One thing done to one file.

    Attributes:
      kind: `truncate`, `empty`, `flip`, `type`, `absent` or `directory`.
      detail: what exactly, so that it can be done again.
      apply: does it to a path.
    """

    kind: str
    detail: str
    apply: Callable[[pathlib.Path], None]


KINDS = ("truncate", "empty", "flip", "type", "absent", "directory")


def of(path: pathlib.Path, rng: np.random.Generator, most: int) -> Iterator[Damage]:
    """Yields every kind of damage of a file, at most `most` of those kinds that have many."""
    size = path.stat().st_size
    yield Damage("absent", "", pathlib.Path.unlink)
    yield Damage("directory", "", _directory)
    if size == 0:
        return
    yield Damage("empty", "", lambda p: p.write_bytes(b""))
    lengths = {size // 2, size - 1, max(size - 16, 1), 1, *map(int, rng.integers(1, size, most))}
    for length in sorted(rng.permutation(sorted(lengths))[:most]):
        yield truncated(int(length))
    # Heads and tails hold what describes the rest.
    places = [*range(min(size, 16)), *range(max(size - 16, 0), size)]
    half = -(-most // 2)
    chosen = [*rng.choice(places, half), *rng.integers(0, size, half)]
    for place in chosen[:most]:
        yield flipped(int(place), int(rng.integers(8)))
    yield from _types(path, rng, most)


def flipped(place: int, bit: int) -> Damage:
    """One bit of the byte at `place`."""

    def apply(path: pathlib.Path) -> None:
        data = bytearray(path.read_bytes())
        data[place] ^= 1 << bit
        path.write_bytes(data)

    return Damage("flip", f"byte {place} bit {bit}", apply)


def truncated(length: int) -> Damage:
    """All but the first `length` bytes are gone."""
    return Damage(
        "truncate", f"to {length} bytes", lambda p: p.write_bytes(p.read_bytes()[:length])
    )


def _directory(path: pathlib.Path) -> None:
    path.unlink()
    path.mkdir()


def _types(path: pathlib.Path, rng: np.random.Generator, most: int) -> Iterator[Damage]:
    if path.suffix == ".json":
        values = [json.loads(path.read_text())]
        yield from _json_types(values, rng, most, lambda found: json.dumps(found[0], indent=2))
    elif path.suffix == ".jsonl":
        values = [json.loads(line) for line in path.read_text().splitlines()]
        yield from _json_types(
            values, rng, most, lambda found: "".join(f"{json.dumps(row)}\n" for row in found)
        )
    elif path.suffix == ".npy":
        array = np.load(path)
        text = np.array(["a", "b"])
        other = {"text": text, "one more axis": array[None], "no axis": text[0], "short": array[:0]}
        for name, changed in other.items():
            yield Damage("type", name, lambda p, changed=changed: np.save(p, changed))
        if array.dtype.kind in "fiu":
            yield Damage("type", "complex", lambda p: np.save(p, array.astype(np.complex64)))
    elif path.suffix not in (".py", ".md", ".html"):
        yield Damage("type", "another format", lambda p: p.write_bytes(_NUMBERS))


def _json_types(values, rng, most, write) -> Iterator[Damage]:
    """Another value in the place of one leaf or branch, of a type that was not there."""
    places = list(_places(values))
    for number in rng.permutation(len(places))[:most]:
        place = places[number]
        other = _OTHERS[int(rng.integers(len(_OTHERS)))]
        found = copy.deepcopy(values)
        *way, last = place
        node = found
        for key in way:
            node = node[key]
        if _same_type(node[last], other):
            continue
        node[last] = other
        text = write(found)
        name = ".".join(map(str, place[1:])) or "the whole"
        yield Damage(
            "type", f"{name} = {other!r}", lambda p, text=text: p.write_text(text) and None
        )


def _places(node, way=()) -> Iterator[tuple]:
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield (*way, key)
        yield from _places(node[key], (*way, key))


def _same_type(found, other) -> bool:
    numbers = (int, float)
    alike = isinstance(found, numbers) and isinstance(other, numbers)
    return type(found) is type(other) or (alike and not isinstance(found, bool))


_OTHERS = (None, "text", 7, -1.5, True, [], [1, "a"], {}, {"a": 1})


def _numbers() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.arange(40, dtype=np.int64))
    return stream.getvalue()


_NUMBERS = _numbers()


def copied(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """A copy of a folder, with the times of its files."""
    return pathlib.Path(shutil.copytree(source, target, symlinks=True))
