"""Every file that the package reads x everything that can happen to it: what comes of it?

    python tests/hostile/matrix.py                        # the matrix, some minutes
    python tests/hostile/matrix.py --flips=600            # random single bits instead
    python tests/hostile/matrix.py --subjects=run,export --most=20 --seed=7

A case ends well where what is read is as before (`held`), where one line refuses it (`refused`),
or where what is read differs and the output says what was passed over, left out or made again
(`told`). Else it is `silent` or a `traceback`, and this program exits with 1.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import io
import pathlib
import re
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import damage as damage_lib
import numpy as np
import rich.console
import rich.progress
import rich.table
from damage import Damage
from subjects import SUBJECTS

from vla_jax.core.errors import UserError

OUTCOMES = ("held", "refused", "told", "uncovered", "silent", "traceback")
BAD = ("silent", "traceback")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One thing done to one file of one subject, and what came of it.

    Attributes:
      subject: its name.
      file: relative to its folder.
      damage: what was done.
      outcome: one of `OUTCOMES`.
      message: what was said, or the traceback.
    """

    subject: str
    file: str
    damage: Damage
    outcome: str
    message: str

    def __str__(self) -> str:
        """One line to find the case again, and what was said."""
        what = f"{self.subject}: {self.file}: {self.damage.kind} {self.damage.detail}"
        return f"{self.outcome}: {what}: {self.message}"


class Bench:
    """One subject, made once, and as often as wanted damaged in a copy.

    Args:
      name: of the subject.
      folder: where to make it.
    """

    def __init__(self, name: str, folder: pathlib.Path):
        self._name, self._subject = name, SUBJECTS[name]
        self._sound = folder / "sound"
        self._sound.mkdir(parents=True)
        with _captured():
            self._subject.make(self._sound)
        copy = damage_lib.copied(self._sound, folder / "copy")
        self._expected = digest(self._used(copy)[0])

    def files(self) -> list[str]:
        """Returns the files that are damaged, sorted."""
        found = {
            path.relative_to(self._sound).as_posix()
            for pattern in self._subject.files
            for path in self._sound.glob(pattern)
            if path.is_file() and path.suffix not in (".py", ".md")
        }
        return sorted(found)

    def kinds(self) -> list[str]:
        """Returns one file of each kind: names that differ in numbers alone are of one."""
        kinds = {re.sub(r"[0-9a-f]{8,}|\d+", "N", name): name for name in self.files()}
        return sorted(kinds.values())

    def matrix(
        self, rng: np.random.Generator, most: int, limit: int | None = None
    ) -> Iterator[Case]:
        """Tries every kind of damage on every kind of file, or `limit` of these cases."""
        cases = [
            (file, each)
            for file in self.kinds()
            for each in damage_lib.of(self._sound / file, rng, most)
        ]
        for number in sorted(rng.permutation(len(cases))[:limit]):
            yield self.try_one(*cases[number])

    def flips(self, rng: np.random.Generator, count: int) -> Iterator[Case]:
        """Flips single bits, half of them in files by their size, half in any file alike."""
        files = [file for file in self.files() if (self._sound / file).stat().st_size]
        sizes = np.array([(self._sound / file).stat().st_size for file in files])
        for number in range(count):
            share = sizes / sizes.sum() if number % 2 else None
            k = int(rng.choice(len(files), p=share))
            flip = damage_lib.flipped(int(rng.integers(sizes[k])), int(rng.integers(8)))
            yield self.try_one(files[k], flip)

    def try_one(self, file: str, damage: Damage) -> Case:
        """Damages one file of a copy and uses it."""
        with tempfile.TemporaryDirectory(dir=self._sound.parent) as folder:
            copy = damage_lib.copied(self._sound, pathlib.Path(folder) / "copy")
            damage.apply(copy / file)
            outcome, message = self._judge(copy, file, damage)
        return Case(subject=self._name, file=file, damage=damage, outcome=outcome, message=message)

    def _judge(self, copy: pathlib.Path, file: str, damage: Damage) -> tuple[str, str]:
        try:
            value, said = self._used(copy)
        except (UserError, _StandAloneError) as error:
            message = str(error)
            return ("traceback" if "\n" in message else "refused"), message
        except Exception as error:
            if type(error) is ValueError and self._name == "export":  # what its programs raise
                return "refused", str(error)
            return "traceback", "".join(traceback.format_exception(error)[-3:])
        if digest(value) == self._expected:
            return "held", said
        if re.search(
            "damaged|passed over|skipped|made again|left out|corrupted|have changed|disagree|lost",
            said,
        ):
            return "told", said
        if damage.kind in self._subject.uncovered:
            return "uncovered", self._subject.uncovered[damage.kind]
        return "silent", said

    def _used(self, folder: pathlib.Path) -> tuple[Any, str]:
        with _captured() as said:
            value = self._subject.use(folder)
        return value, said.getvalue()


class _StandAloneError(Exception):
    """Stands for what the exported programs raise, if they have an exception of their own."""


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        yield out


def digest(value: Any) -> str:
    """Returns a digest of nested plain values, arrays and dataclasses."""
    hasher = hashlib.sha256()
    _feed(value, hasher.update)
    return hasher.hexdigest()


def _feed(value: Any, update: Any) -> None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    update(type(value).__name__.encode())
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            update(str(key).encode())
            _feed(value[key], update)
    elif isinstance(value, bytes):
        update(value)
    elif isinstance(value, list | tuple):
        for item in value:
            _feed(item, update)
    elif hasattr(value, "dtype"):
        array = np.asarray(value)
        update(f"{array.dtype} {array.shape}".encode())
        update(array.tobytes())
    else:
        update(repr(value).encode())


def table(cases: Sequence[Case]) -> rich.table.Table:
    """Returns how many cases ended how, by subject and kind of damage."""
    counts = Counter((case.subject, case.damage.kind, case.outcome) for case in cases)
    out = rich.table.Table("subject", "damage", "tried", *OUTCOMES)
    for subject in dict.fromkeys(case.subject for case in cases):
        for kind in damage_lib.KINDS:
            row = [counts[subject, kind, outcome] for outcome in OUTCOMES]
            if sum(row):
                out.add_row(subject, kind, str(sum(row)), *map(str, row))
    total = [sum(case.outcome == outcome for case in cases) for outcome in OUTCOMES]
    out.add_section()
    out.add_row("all", "", str(len(cases)), *map(str, total))
    return out


def run(
    names: Sequence[str], folder: pathlib.Path, *, seed: int, most: int, flips: int = 0
) -> Iterator[Case]:
    """Tries the matrix, or `flips` random bits spread evenly over the subjects."""
    for number, name in enumerate(names):
        rng = np.random.default_rng([seed, number])
        bench = Bench(name, folder / f"{number}")
        yield from bench.flips(rng, -(-flips // len(names))) if flips else bench.matrix(rng, most)


def main() -> None:
    """Prints what came of every case; exits with 1 if one ended badly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", default=",".join(SUBJECTS), help="names between commas")
    parser.add_argument("--flips", type=int, default=0, help="random single bits, in place of all")
    parser.add_argument("--most", type=int, default=8, help="cases of a kind of damage and file")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    names = given.subjects.split(",")
    if unknown := set(names) - set(SUBJECTS):
        parser.error(f"no such subject: {unknown}; there are {', '.join(SUBJECTS)}")
    if given.flips and given.subjects == ",".join(SUBJECTS):
        names = [name for name in names if "flip" not in SUBJECTS[name].uncovered]
    console = rich.console.Console(stderr=True)
    cases = []
    with tempfile.TemporaryDirectory() as folder, rich.progress.Progress(console=console) as bar:
        task = bar.add_task("cases", total=None)
        found = run(
            names, pathlib.Path(folder), seed=given.seed, most=given.most, flips=given.flips
        )
        for case in found:
            cases.append(case)
            bar.update(task, advance=1, description=case.subject)
            if case.outcome in BAD:
                print(case)  # noqa: T201
    rich.console.Console(width=110).print(table(cases))
    sys.exit(any(case.outcome in BAD for case in cases))


if __name__ == "__main__":
    main()
