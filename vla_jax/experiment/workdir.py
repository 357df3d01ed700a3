"""One run, one directory: what lies where, and whose it is.

config.json      the resolved configuration; its being there makes the directory a run's
lock             who trains, while somebody does
tokenizer.json   the tokenizer
fast/            the vocabulary of FAST, for a run whose actions it writes
policy.json      action space, statistics and bins per robot, action token ids, prompts, layout
manifest.json    the SHA-256 of tokenizer.json, fast/ and policy.json
checkpoints/     Orbax, one folder per step
metrics.jsonl    and TensorBoard event files beside it
nonfinite/       batches whose loss or gradient was no number
profile/         a trace of a few steps, if one was asked for
origin.json      the command that began it, what its config file says, the revision of the code
mixture.json     the ledger of shares, epochs and tokens
results.json, episodes.jsonl, report.html, curves.png, episodes.gif   written at the end
evaluation/      results in other environments, a folder each
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vla_jax.core import config as config_lib
from vla_jax.core import files, json_file, paths
from vla_jax.core.errors import UserError, listed
from vla_jax.experiment import policy_files
from vla_jax.experiment.config import RunConfig
from vla_jax.runtime import lock, metrics, peers, progress
from vla_jax.tokens.encoder import Encoder

RESULTS = "results.json"
_DAMAGED = "Restore it from a copy; a run that saved nothing may as well be removed"
_SECONDS_TO_APPEAR = 60  # network file systems remember for so long that a file was not there

# What each host may have its own of.
_OF_A_HOST = (
    "config.cache_dir",
    *(f"config.loader.{field}" for field in ("threads", "prefetch", "ram_budget")),
)
# What the sound part of a run does not depend on: a run that goes on may do so on other devices,
# with more patience for damaged images or losses, and with other checkpoints.
_FREE = (
    *_OF_A_HOST,
    *(f"config.{section}." for section in ("checkpoint", "mesh", "metrics", "profiler")),
    *(f"config.loop.{field}" for field in ("on_nonfinite", "max_nonfinite")),
    *(f"config.loader.{field}" for field in ("on_corrupt", "max_skipped", "max_pixels")),
)
# Where datasets lie. What they hold is what counts: their fingerprints are in the checkpoints.
_PLACES = re.compile(r"config\.(data_dir|mixture\.(robots|web)\..*\.dir): ")
# What a run makes before its first checkpoint; without the first of them none is read.
_MADE = (
    *("policy.json", "manifest.json", "tokenizer.json", "fast", "frozen"),
    *("checkpoints", "mixture.json"),
    *metrics.FILES,
)
_SAVED = re.compile(r"\d+(\.damaged)?")  # the name of a checkpoint, not of one being written


def as_now(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a run's config.json with the defaults of fields that the run's version lacked."""
    try:
        return config_lib.to_json(config_lib.build(RunConfig, config))
    except UserError:  # fields that are gone show as differences
        return config


class Workdir:
    """Paths and small files of a run.

    Args:
      path: the directory.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(paths.expand(path))
        self.checkpoints = self.path / "checkpoints"
        self.frozen = self.path / "frozen"
        self.nonfinite = self.path / "nonfinite"
        self.profile = self.path / "profile"
        self.results = self.path / RESULTS
        self.evaluation = self.path / "evaluation"
        self.report = self.path / "report.html"
        self.origin = self.path / "origin.json"
        self.mixture = self.path / "mixture.json"
        self.curves = self.path / "curves.png"
        self.episodes = self.path / "episodes.gif"
        self._config = self.path / "config.json"

    def check(self, config: RunConfig) -> bool:
        """Finds out whether this is the directory of a run, or may become it; writes nothing.

        A run that goes on may do so on other hosts, with more patience for damaged images, and
        with its datasets elsewhere: the fields that its sound batches do not depend on may change.

        Args:
          config: the run.

        Returns:
          Whether the run is there. If not, there is none, or one of which nothing was ever saved.

        Raises:
          UserError: the directory holds another run, or things that are no run.
        """
        if not self._config.exists():
            self._check_free()
            return False
        others = [line for line in binding(self._changes(config)) if not _PLACES.match(line)]
        if others and self.has_saved():
            raise UserError(
                f"workdir {self.path} holds another run: {'; '.join(others)}",
                fix="Take another --workdir, or give the flags that this run began with",
            )
        return not others

    def claim(self, config: RunConfig, origin: Mapping[str, Any] | None = None) -> None:
        """Makes the directory this run's, or finds that it already is.

        To be called when nothing is left that the run may be refused for. Killed at any moment, it
        can be called again.

        Args:
          config: the run.
          origin: of a new run: what asked for it, written to origin.json.

        Raises:
          UserError: as `check`.
        """
        goes_on, wanted = self.check(config), config_lib.to_json(config)
        if self._config.exists():
            changes = self._changes(config)
            if not goes_on:
                progress.note(
                    f"workdir {self.path}: a run that has saved nothing gives way to this one "
                    f"({listed(binding(changes))})"
                )
                self._forget()
            elif moved := [line for line in changes if _PLACES.match(line)]:
                progress.note(f"datasets are taken from elsewhere: {listed(moved)}")
            if not changes:
                return
        self.path.mkdir(parents=True, exist_ok=True)
        if origin is not None and not goes_on:
            write_json(self.origin, dict(origin))
        write_json(self._config, wanted)  # This is what claims it.

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other trainings away; reading, evaluating and reporting go on beside.

        Raises:
          UserError: another process trains here, or there is something else in the way.
        """
        if not self._config.exists():
            self._check_free()
        with lock.held(
            self.path,
            f"workdir {self.path}",
            "Wait until {holder} has ended, stop it, or take another --workdir",
        ):
            yield

    def has_saved(self) -> bool:
        """Whether there is a checkpoint, be it a damaged one, or a result."""
        saved = self.checkpoints.iterdir() if self.checkpoints.is_dir() else ()
        return self.results.exists() or any(_SAVED.fullmatch(path.name) for path in saved)

    def _check_free(self) -> None:
        """Refuses a directory in which there is more than a killed claim leaves."""
        ours = {lock.FILE, self.origin.name}
        for path in (self.origin, self._config):
            ours.add(files.partial(path).name)
        if self.path.is_dir():
            others = sorted(path.name for path in self.path.iterdir() if path.name not in ours)
        else:  # a file, or a link that leads nowhere
            others = [self.path.name] if os.path.lexists(self.path) else []
        if others:
            raise UserError(
                f"workdir {self.path}",
                expected="a new or empty directory, or one that holds this run",
                found=f"something else in the way ({listed(others)})",
                fix="Take another --workdir",
            )

    def _changes(self, config: RunConfig) -> list[str]:
        """Returns in what a run differs from the one that is here."""
        before = as_now(json_file.read(self._config, dict[str, Any], fix=_DAMAGED))
        return config_lib.differences(before, config_lib.to_json(config))

    def _forget(self) -> None:
        """Removes what a run has left that never saved anything, but for what it was asked for."""
        for name in _MADE:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @staticmethod
    def agree(config: RunConfig) -> None:
        """Makes sure that all processes were started with the same configuration.

        Raises:
          UserError: they differ in more than what a host may have its own of.
        """
        fields = config_lib.leaves(config_lib.to_json(config))
        fixed = {name: value for name, value in fields if name not in _OF_A_HOST}
        peers.agree("configuration", fixed, "Start all processes with the same flags and files")

    def check_shared(self) -> None:
        """Makes sure that all processes see what process 0 has written here.

        Raises:
          UserError: some do not, named with their hosts.
        """
        seen = peers.gather("workdir", [socket.gethostname(), appears(self._config)])
        blind = [f"process {k} on {host}" for k, (host, sees) in enumerate(seen) if not sees]
        if blind:
            raise UserError(
                f"workdir {self.path.absolute()}",
                expected="a directory that all hosts share",
                found=f"it is not what process 0 sees in {', '.join(blind)}",
                fix="Take a --workdir on a file system that is mounted on all hosts",
            )

    def config(self) -> RunConfig:
        """Reads the configuration of the run.

        Raises:
          UserError: there is no run here.
        """
        if not self._config.exists():
            raise UserError(
                f"workdir {self.path}",
                expected="a run (a directory with config.json)",
                found="none",
                fix="Train first: vla-jax train --config=... --workdir=...",
            )
        values = json_file.read(self._config, dict[str, Any], fix=_DAMAGED)
        try:
            return config_lib.build(RunConfig, values)
        except UserError as error:
            raise UserError(f"{self._config}: {str(error).removesuffix('.')}") from error

    def save_encoder(self, encoder: Encoder) -> None:
        """Writes tokenizer.json, fast/ where actions are written so, and policy.json."""
        policy_files.save(self.path, encoder)

    def load_encoder(self, *, wait: bool = False) -> Encoder | None:
        """Reads what `save_encoder` wrote; None if the run has not come that far.

        Args:
          wait: it has been written, perhaps by another host.

        Raises:
          UserError: the files are damaged, or of another version of vla_jax.
        """
        written = self.path / policy_files.POLICY
        if not (appears(written) if wait else written.exists()):
            return None
        return policy_files.load(self.path)


def appears(path: pathlib.Path, seconds: float = _SECONDS_TO_APPEAR) -> bool:
    """Whether a file that another host may have written is there, or is soon."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def binding(changes: Sequence[str]) -> list[str]:
    """Returns those of `config.differences` that make it another run."""
    return [change for change in changes if not change.startswith(_FREE)]


def write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Writes a JSON object, whole or not at all."""
    files.write_whole(path, f"{json.dumps(values, indent=2)}\n".encode())
