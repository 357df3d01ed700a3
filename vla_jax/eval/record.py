"""What is kept of every episode played, one line of JSON each, so that runs can be compared."""

import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
import numpy as np

from vla_jax.core import files, json_file, paths
from vla_jax.core.errors import UserError
from vla_jax.eval.closed_loop import Outcome

FILE = "episodes.jsonl"
_AGAIN = "The file is damaged; evaluate again with vla-jax eval"
_SHOWN = 200


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One episode of an evaluation.

    Attributes:
      split: the set of fixed episodes that it belongs to.
      seed: of the reset.
      options: of the reset.
      start: a digest of the first observation.
      instruction: what was asked.
      success: whether it was done.
      steps: actions taken.
      info: finite numbers, texts and truth values of the environment's last info.
    """

    split: str
    seed: Annotated[int, msgspec.Meta(ge=0)]
    options: Mapping[str, Any]
    start: str
    instruction: str
    success: bool
    steps: Annotated[int, msgspec.Meta(ge=0)]
    info: Mapping[str, bool | int | float | str]

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
                if _is_plain(value) and name != "success"
            },
        )

    @property
    def key(self) -> str:
        """Names the episode: split, seed and options."""
        return f"{self.split} {self.seed} {json.dumps(dict(self.options), sort_keys=True)}"


def _is_plain(value: Any) -> bool:
    """Whether a line of JSON can hold a value: a text, a truth value or a finite number."""
    if isinstance(value, float | np.floating):
        return math.isfinite(value)
    return isinstance(value, bool | int | str | np.generic)


def write(path: str | os.PathLike[str], records: Iterable[Record]) -> None:
    """Writes records, one per line, whole or not at all."""
    lines = [json.dumps(msgspec.structs.asdict(record)) + "\n" for record in records]
    files.write_whole(path, "".join(lines).encode())


def read(path: str | os.PathLike[str]) -> list[Record]:
    """Reads what `write` wrote.

    Raises:
      UserError: there is no such file, it is empty, a line is no record, a number is not
        finite, or an episode appears twice; names the line and the field.
    """
    path = pathlib.Path(paths.expand(path))
    if not path.is_file():
        raise UserError(
            f"{path}",
            expected="the episodes of an evaluation",
            found="no such file",
            fix="Evaluate first: vla-jax eval WORKDIR",
        )
    records: list[Record] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        what = f"{path}, line {number}"
        record = json_file.decode(line, Record, what, fix=_AGAIN)
        for name in ("options", "info"):
            json_file.check_finite(getattr(record, name), what, name)
        first = seen.setdefault(record.key, number)
        if first != number:
            raise UserError(
                f"{what}: the episode {record.key[:_SHOWN]}",
                expected="every episode once",
                found=f"it in line {first}, too",
                fix=_AGAIN,
            )
        records.append(record)
    if not records:
        raise UserError(f"{path}", expected="a line for every episode", found="none", fix=_AGAIN)
    return records
