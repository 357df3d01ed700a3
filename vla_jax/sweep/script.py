"""Calls the launch scripts, which know the clusters."""

import os
import pathlib
import subprocess
from collections.abc import Sequence

from vla_jax.core.errors import UserError

FOLDER = pathlib.Path("tpu_scripts")


def call(script: str, *arguments: str) -> str:
    """Runs a script of `tpu_scripts/` and returns what it printed.

    Raises:
      UserError: the working directory is no clone of the repository, or the script failed.
    """
    path = FOLDER / script
    if not path.is_file():
        raise UserError(
            f"{path}",
            expected="the launch script",
            found="no such file here",
            fix="Run the sweep from a clone of the repository",
        )
    done = subprocess.run(
        ["bash", os.fspath(path), *arguments], check=False, capture_output=True, text=True
    )
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise UserError(f"{path} {' '.join(arguments)} failed: {reason}")
    return done.stdout


def lines(output: str) -> Sequence[str]:
    """Returns the lines of an output that say something."""
    return [line.strip() for line in output.splitlines() if line.strip()]
