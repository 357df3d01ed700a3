"""A policy -> a folder: what every format has in common, and the gate at its end.

policy.json     all that acting depends on beside parameters and vocabulary
tokenizer.json  the tokenizer
grammar.npz     which token may follow which, an `Automaton`
fast/           the vocabulary of FAST, where actions are written by it
golden.npz      observations, prompts, and what JAX made of them
manifest.json   the SHA-256 of all these files, which the programs verify
parity.json     how the gate was passed, or that it was skipped
*.py            the programs that run it, which need nothing of this package

A folder grows as `OUT.incomplete`, marked by a file INCOMPLETE, and gets its name at the end.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from vla_jax.core.errors import UserError
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.policy import exported_manifest
from vla_jax.policy.export import gate, golden, native, openvla, paligemma, stablehlo
from vla_jax.policy.export.description import describe
from vla_jax.policy.export.format import Format, Options
from vla_jax.policy.observation import Observation
from vla_jax.policy.policy import Policy
from vla_jax.tokens.fast_tokens import FastTokens

FORMATS = {
    form.name: form for form in (native.FORMAT, paligemma.FORMAT, openvla.FORMAT, stablehlo.FORMAT)
}
INCOMPLETE = "INCOMPLETE"


def check_place(out: str | os.PathLike[str]) -> pathlib.Path:
    """Refuses a place that holds something.

    Returns:
      Where the folder grows.

    Raises:
      UserError: `out` is a file, or a directory that is not empty, or beside it lies something of
        the name that the folder has until it is complete.
    """
    path = pathlib.Path(out)
    growing = path.with_name(f"{path.name}.incomplete")
    for place in (path, growing):
        if (place / INCOMPLETE).is_file() and place == growing:
            continue  # left by an earlier export, and written over
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise UserError(
                f"export to {place}",
                expected="a new or empty directory",
                found="files in it" if place.is_dir() else "a file",
                fix="Choose another directory or remove it",
            )
    return growing


def write(
    growing: pathlib.Path,
    form: Format,
    policy: Policy,
    config: VLMConfig,
    options: Options,
    observations: Sequence[Observation],
    instructions: Sequence[str],
) -> None:
    """Writes everything but the verdict.

    Args:
      growing: from `check_place`.
      form: the format.
      policy: what to export; it computes in float32, from parameters in the dtype of the export.
      config: sizes of its model.
      options: what was chosen.
      observations: golden ones.
      instructions: one for each of them.

    Raises:
      UserError: the directory cannot be made, a number does not fit the dtype.
    """
    try:
        shutil.rmtree(growing, ignore_errors=True)
        growing.mkdir(parents=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(
            f"export to {growing}", expected="a directory", found="a file on the way there"
        ) from error
    mark(growing, "the export did not finish")
    form.write(growing, policy, config, options)
    description = describe(policy, config, form.name, options.dtype)
    (growing / "policy.json").write_text(json.dumps(description, indent=2) + "\n")
    np.savez_compressed(growing / "grammar.npz", **dataclasses.asdict(policy.legal))
    if isinstance(tokens := policy.action_tokens, FastTokens):
        tokens.fast.save(growing / "fast", (policy.encoder.chunk, tokens.spec.size))
    arrays = golden.make(policy, observations, instructions)
    np.savez_compressed(growing / "golden.npz", **arrays)  # type: ignore[arg-type]
    for program in form.programs:
        shutil.copyfile(gate.PROGRAMS / program, growing / program)
    _seal(growing)


def _seal(growing: pathlib.Path) -> None:
    """Writes the manifest of all files, or adds those to it that it does not have."""
    here = [path.relative_to(growing).as_posix() for path in growing.rglob("*") if path.is_file()]
    apart = {exported_manifest.FILE, INCOMPLETE}
    known = exported_manifest.read(growing) if (growing / exported_manifest.FILE).exists() else {}
    added = [name for name in sorted(here) if name not in apart and name not in known]
    exported_manifest.write(growing, known | exported_manifest.digests(growing, added))


def mark(growing: pathlib.Path, reason: str) -> None:
    """Says in the folder why it is not to be used."""
    (growing / INCOMPLETE).write_text(reason + "\n")


def hand_over(growing: pathlib.Path, out: str | os.PathLike[str], report: dict[str, Any]) -> None:
    """Writes the report, takes the mark away and gives the folder its name."""
    (growing / "parity.json").write_text(json.dumps(report, indent=2) + "\n")
    _seal(growing)
    (growing / INCOMPLETE).unlink()
    os.replace(growing, out)
