"""How far a run has come, by what lies in its directory; survives whatever kills the sweep.

run/         the workdir of `vla-jax train`
train.log    what it printed, every attempt after the other
record.json  what it is made from, and the seconds it took
lock         held by the training process itself, so that no second one starts beside it
"""

import contextlib
import dataclasses
import enum
import os
import time
from collections.abc import Iterator
from typing import IO, Any, NotRequired, TypedDict

from vla_jax.core import config as config_lib
from vla_jax.core import json_file
from vla_jax.core.errors import UserError
from vla_jax.experiment.workdir import Workdir, as_now, binding, write_json
from vla_jax.runtime import lock as locks
from vla_jax.sweep.plan import Lineage, Run

_REMOVE = "Remove it"


class _Attempts(TypedDict):
    needs: NotRequired[dict[str, Lineage]]
    seconds: NotRequired[float]
    began: NotRequired[float]


class _Steps(TypedDict, total=False):
    steps: int


class _Results(TypedDict, total=False):
    train: _Steps


class State(enum.Enum):
    """What there is of a run."""

    NEW = "new"
    BEGUN = "begun"
    DONE = "done"
    STALE = "stale"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One run on disk.

    Attributes:
      run: what it should be.
      state: how far it has come; STALE if it is another run than that.
      why: what is different, if it is stale.
      seconds: of all attempts so far, also of those that were killed.
    """

    run: Run
    state: State
    why: str = ""
    seconds: float = 0.0


def read(run: Run) -> Record:
    """Looks at the directory of a run.

    Raises:
      UserError: a file of it is damaged.
    """
    file = run.directory / "record.json"
    record = json_file.read(file, _Attempts, fix=_REMOVE) if file.exists() else _Attempts()
    workdir = Workdir(run.workdir)
    config = run.workdir / "config.json"
    if not config.exists():
        return Record(run=run, state=State.NEW)
    here = Lineage(
        config=json_file.read(config, dict[str, Any], fix="Restore it, or run anew with --rerun"),
        needs=record.get("needs", {}),
    )
    if why := "; ".join(_differences(here, run.lineage())):
        if not workdir.has_saved():  # It gives way: `Workdir.claim`.
            return Record(run=run, state=State.NEW)
        return Record(run=run, state=State.STALE, why=why)
    seconds = record.get("seconds", 0.0) + _lost(run, record)
    return Record(run=run, state=_state(run, workdir), seconds=seconds)


def _state(run: Run, workdir: Workdir) -> State:
    """Returns whether a run is done: results.json is written last, but by any evaluation."""
    if not workdir.results.exists():
        return State.BEGUN
    results = json_file.read(workdir.results, _Results, fix=f"{_REMOVE}, and the run goes on")
    steps = results.get("train", {}).get("steps", run.steps)
    return State.DONE if steps >= run.steps else State.BEGUN


def begin(run: Run) -> None:
    """Writes down that an attempt begins, and from what."""
    seconds = read(run).seconds
    lineage = run.lineage()["needs"]
    _write(run, {"needs": lineage, "seconds": seconds, "began": time.time()})


def end(run: Run) -> None:
    """Writes down that the attempt is over."""
    record = json_file.read(run.directory / "record.json", _Attempts, fix=_REMOVE)
    elapsed = max(0.0, time.time() - record.get("began", time.time()))
    seconds = record.get("seconds", 0.0) + elapsed
    _write(run, {"needs": record.get("needs", {}), "seconds": seconds})


def set_aside(run: Run) -> None:
    """Moves the directory of a run to `NAME.old1`, `.old2`, ...; nothing is deleted.

    Raises:
      UserError: the run is being trained.
    """
    with lock(run) as held:
        if held is None:
            raise UserError(f"{run.name} is running", fix="Stop it before it is run anew")
        number = 1
        while (old := run.directory.with_name(f"{run.directory.name}.old{number}")).exists():
            number += 1
        run.directory.rename(old)


@contextlib.contextmanager
def lock(run: Run) -> Iterator[IO[str] | None]:
    """Takes the run's lock; a process that inherits the file holds it until it ends.

    Yields:
      The open file, or None where somebody holds the lock.
    """
    run.directory.mkdir(parents=True, exist_ok=True)
    file = locks.take(run.directory / locks.FILE)
    with file or contextlib.nullcontext():
        yield file


def is_running(run: Run) -> bool:
    """Tells whether a process on this machine trains the run."""
    if not (run.directory / locks.FILE).exists():
        return False
    with lock(run) as held:
        return held is None


def log_path(run: Run) -> str:
    """Returns the file of what the training prints."""
    return os.fspath(run.directory / "train.log")


def last_line(run: Run) -> str:
    """Returns the last thing that a training printed."""
    try:
        with open(log_path(run), "rb") as file:
            file.seek(max(0, os.path.getsize(log_path(run)) - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""


def _differences(here: Lineage, wanted: Lineage) -> list[str]:
    """Compares two lineages."""
    out = binding(config_lib.differences(as_now(here["config"]), wanted["config"]))
    for name, need in wanted["needs"].items():
        if name not in here["needs"]:
            out.append(f"not known to be made from this {name}")
        else:
            out += [f"{name}: {line}" for line in _differences(here["needs"][name], need)]
    return out


def _lost(run: Run, record: _Attempts) -> float:
    """Returns the seconds of an attempt whose end nobody saw: until its last line."""
    log = run.directory / "train.log"
    if "began" not in record or not log.exists():
        return 0.0
    return max(0.0, log.stat().st_mtime - record["began"])


def _write(run: Run, values: _Attempts) -> None:
    write_json(run.directory / "record.json", {**values})
