"""One run, one directory: what lies where, and whose it is.

config.json      the resolved configuration
tokenizer.json   the tokenizer
fast/            the vocabulary of FAST, for a run whose actions it writes
policy.json      action space, statistics and bins per robot, action token ids, prompts, layout
checkpoints/     Orbax, one folder per step
metrics.jsonl    and TensorBoard event files beside it
nonfinite/       batches whose loss or gradient was no number
profile/         a trace of a few steps, if one was asked for
origin.json      the command that began it, what its config file says, the revision of the code
mixture.json     the ledger of shares, epochs and tokens
results.json, episodes.jsonl, report.html, curves.png, episodes.gif   written at the end
evaluation/      results in other environments, a folder each
"""

import json
import os
import pathlib
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from vla_jax.core import config as config_lib
from vla_jax.core import files
from vla_jax.core.errors import UserError
from vla_jax.experiment import policy_files
from vla_jax.experiment.config import RunConfig
from vla_jax.runtime import peers
from vla_jax.tokens.encoder import Encoder

RESULTS = "results.json"
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
    *(f"config.loader.{field}" for field in ("on_corrupt", "max_skipped")),
)


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
        self.path = pathlib.Path(path)
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

    def claim(self, config: RunConfig, origin: Mapping[str, Any] | None = None) -> None:
        """Makes the directory this run's, or finds that it already is.

        A run that goes on may do so on other hosts, with more patience for damaged images: the
        fields that its sound batches do not depend on may change.

        Args:
          config: the run.
          origin: of a new run: what asked for it, written to origin.json.

        Raises:
          UserError: it holds another run, or things that are no run.
        """
        wanted = config_lib.to_json(config)
        if self._config.exists():
            changes = config_lib.differences(as_now(read_json(self._config)), wanted)
            others = binding(changes)
            if others:
                raise UserError(
                    f"workdir {self.path} holds another run: {'; '.join(others)}",
                    fix="Take another --workdir, or give the flags that this run began with",
                )
            if changes:
                write_json(self._config, wanted)
            return
        if self.path.is_file() or (self.path.is_dir() and any(self.path.iterdir())):
            raise UserError(
                f"workdir {self.path}",
                expected="a new or empty directory, or one that holds this run",
                found="something else in the way",
                fix="Take another --workdir",
            )
        self.path.mkdir(parents=True, exist_ok=True)
        if origin is not None:
            write_json(self.origin, dict(origin))
        write_json(self._config, wanted)

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
        return config_lib.build(RunConfig, read_json(self._config))

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


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      UserError: the file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error})") from error


def write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Writes a JSON object, whole or not at all."""
    files.write_whole(path, f"{json.dumps(values, indent=2)}\n".encode())
