"""Whether the hosts of a job can work together: what `vla-jax dist-check` measures and compares."""

import collections
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import secrets
import socket
import statistics
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax

from vla_jax.core.errors import UserError
from vla_jax.data import frame_index, mixture, splits
from vla_jax.experiment import sources
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import appears
from vla_jax.runtime import collectives, peers, storage

_ROUNDS = 7
_SECONDS_APART = 1.0  # logs of hosts whose clocks differ by more cannot be read side by side
HEADER = ("process", "host", "devices", "sum", "clock, s", "workdir", "datasets")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What was found.

    Attributes:
      rows: one per process, see `HEADER`.
      speeds: of collectives over all devices.
      problems: what would stop or spoil a run, with the process and its host; empty if nothing.
    """

    rows: Sequence[Sequence[Any]]
    speeds: Sequence[collectives.Speed]
    problems: Sequence[str]


def examine(config: RunConfig | None, workdir: pathlib.Path | None) -> Report:
    """Examines all processes, each of which has to call this; takes well below 30 s.

    Args:
      config: the run whose datasets are looked for; None looks for none.
      workdir: the run's directory, which all have to see and write; None leaves it out.

    Returns:
      The same report in every process.
    """
    devices = jax.local_devices()
    mine = {
        "host": socket.gethostname(),
        "devices": f"{len(devices)} {devices[0].device_kind}",
        "sum": "right" if collectives.add_up() else "wrong",
        "workdir": _workdir(workdir) if workdir else "",
        "datasets": _datasets(config) if config else {},
    }
    everyone = peers.gather("facts", mine)
    clocks = clock_offsets()
    problems = []
    for process, facts in enumerate(everyone):
        name = f"process {process} on {facts['host']}"
        if facts["sum"] == "wrong":
            problems.append(f"{name}: a sum over all devices is wrong")
        if abs(clocks[process]) > _SECONDS_APART:
            problems.append(f"{name}: its clock is {clocks[process]:+.1f} s off process 0's")
        if facts["workdir"] not in ("", "shared"):
            problems.append(f"{name}: workdir {workdir}: {facts['workdir']}")
        problems += [f"{name}: {text}" for text in _odd(process, everyone)]
    rows = [
        (
            *(process, facts["host"], facts["devices"], facts["sum"]),
            *(f"{clocks[process]:+.3f}", facts["workdir"]),
            "; ".join(f"{name}: {text}" for name, text in facts["datasets"].items()),
        )
        for process, facts in enumerate(everyone)
    ]
    return Report(rows=rows, speeds=collectives.speeds(), problems=problems)


def clock_offsets() -> list[float]:
    """Returns how many seconds each process's clock is ahead of that of process 0.

    Read behind a barrier, so that it is right to about the time of a message between hosts.
    """
    readings = []
    for _ in range(_ROUNDS):
        peers.wait("clock")
        readings.append(time.time())
    everyone = peers.gather("clocks", readings)
    return [
        statistics.median(theirs - ours for theirs, ours in zip(one, everyone[0], strict=True))
        for one in everyone
    ]


def _odd(process: int, everyone: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields in what a process differs from most."""
    usual = _usual([facts["devices"] for facts in everyone])
    if everyone[process]["devices"] != usual:
        yield f"{everyone[process]['devices']}, where most have {usual}"
    for name, text in everyone[process]["datasets"].items():
        usual = _usual([facts["datasets"].get(name) for facts in everyone])
        if text != usual:
            yield f"dataset {name}: {text}, where most have {usual}"
        elif text == "absent":
            yield f"dataset {name}: absent"


def _usual(values: Sequence[Hashable]) -> Any:
    return collections.Counter(values).most_common(1)[0][0]  # of equals, that of process 0


def _workdir(path: pathlib.Path) -> str:
    """Returns `shared`, or what is wrong with the place of the workdir, as this process sees it."""
    place = path.absolute()
    while not place.is_dir():
        place = place.parent  # what is there yet: the run makes the rest
    token = peers.gather("token", secrets.token_hex(8))[0]
    probe = place / f".dist_check_{token}"
    mine = probe.with_name(f"{probe.name}_{peers.index()}")
    found = "shared"
    try:
        if peers.is_first():
            probe.touch()
        mine.touch()
    except OSError as error:
        found = f"{place}: {error.strerror}"
    peers.wait("probe")
    if found == "shared" and not appears(probe, seconds=5):
        found = f"{place} is not the one that process 0 writes to"
    peers.wait("probed")
    for file in (mine, probe) if peers.is_first() else (mine,):
        with contextlib.suppress(OSError):
            file.unlink()
    return found


def _datasets(config: RunConfig) -> dict[str, str]:
    """Returns what this process finds of every dataset, in few words that are equal for equals."""
    robots, web = mixture.resolve(config.mixture), config.mixture.web
    found = {}
    for name, settings in robots.items():
        found[name] = _dataset(config, sources.directory(config, "robots", name), settings.split)
    for name in web:
        found[name] = _dataset(config, sources.directory(config, "web", name), None)
    return found


def _dataset(config: RunConfig, directory: str | None, split: str | None) -> str:
    if directory is None:
        return "absent"
    if not storage.exists(directory):
        return "to be generated"
    try:
        names = storage.names(directory, "*[!~]")
        files = storage.Files([storage.join(directory, name) for name in names])
        listing = [
            (name, None if storage.is_remote(directory) else os.path.getsize(files.paths[k]))
            for k, name in enumerate(names)
            if not name.startswith(".")
        ]
        text = f"{len(listing)} files {hashlib.sha256(repr(listing).encode()).hexdigest()[:8]}"
        if split is not None:
            part = splits.parse(split).split
            index = frame_index.find(directory, part, cache_dir=config.cache_dir)
            text += f", index {index.fingerprint[:8]}" if index else ", no index yet"
    except (UserError, OSError) as error:
        return f"not readable ({error})"
    return text
