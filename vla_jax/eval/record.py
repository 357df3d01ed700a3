"""What is kept of every episode played, one line of JSON each, so that runs can be compared."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vla_jax.core import files
from vla_jax.core.errors import UserError
from vla_jax.eval.closed_loop import Outcome

FILE = "episodes.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One episode of an evaluation.

    Attributes:
      split: the set of fixed episodes that it belongs to.
      seed: of the reset.
      options: of the reset.
      start: a digest of the first observation.
      instruction: what was asked.
      success: whether it was done.
      steps: actions taken.
      info: numbers, texts and truth values of the environment's last info.
    """

    split: str
    seed: int
    options: Mapping[str, Any]
    start: str
    instruction: str
    success: bool
    steps: int
    info: Mapping[str, Any]

    @classmethod
    def of(cls, split: str, outcome: Outcome) -> "Record":
        """Takes down how an episode of a split went."""
        return cls(
            split=split,
            seed=outcome.episode.seed,
            options=json.loads(json.dumps(dict(outcome.episode.options))),
            start=outcome.start,
            instruction=outcome.instruction,
            success=outcome.success,
            steps=outcome.steps,
            info={
                name: value.item() if isinstance(value, np.generic) else value
                for name, value in outcome.info.items()
                if isinstance(value, bool | int | float | str | np.generic) and name != "success"
            },
        )

    @property
    def key(self) -> str:
        """Names the episode: split, seed and options."""
        return f"{self.split} {self.seed} {json.dumps(dict(self.options), sort_keys=True)}"


def write(path: str | os.PathLike[str], records: Iterable[Record]) -> None:
    """Writes records, one per line, whole or not at all."""
    lines = [json.dumps(dataclasses.asdict(record)) + "\n" for record in records]
    files.write_whole(path, "".join(lines).encode())


def read(path: str | os.PathLike[str]) -> list[Record]:
    """Reads what `write` wrote.

    Raises:
      UserError: there is no such file, or a line is no record.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}",
            expected="the episodes of an evaluation",
            found="no such file",
            fix="Evaluate first: vla-jax eval WORKDIR",
        )
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            records.append(Record(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}", expected="an episode", found=repr(line[:60])
            ) from error
    return records
