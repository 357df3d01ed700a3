"""What other verbs read of the JSON files that training and evaluation leave behind."""

import dataclasses
import pathlib
from typing import Any, TypedDict

from vla_jax.core import json_file
from vla_jax.data import ledger
from vla_jax.eval.rate import Rate

_FIX = "The file is damaged; write it anew with vla-jax eval"


class Code(TypedDict):
    """Which code was at work, see `runtime/provenance.py`."""

    revision: str | None
    versions: dict[str, str]


class Train(TypedDict):
    """Of the training."""

    seconds: float
    samples_per_s: float


class Filmed(TypedDict):
    """An episode of the film."""

    split: str
    seed: int
    instruction: str
    success: bool
    steps: int


class Environment(TypedDict):
    """Of the environment's fingerprint, what every environment has."""

    name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """results.json; what was not measured is empty.

    Attributes:
      environment: the fingerprint of the environment; None where no episode was played.
      evaluated: the checkpoint and settings of an evaluation with a folder of its own.
      vqa: by kind of question.
      open_loop: errors, accuracies and likelihoods by name.
      quantisation: errors by dimension.
      film: the episodes of the film.
      train: None of an evaluation with a folder of its own.
      code: None of versions that did not record it.
    """

    environment: dict[str, Any] | None = None
    evaluated: dict[str, Any] = dataclasses.field(default_factory=dict)
    vqa: dict[str, Rate] = dataclasses.field(default_factory=dict)
    open_loop: dict[str, float | None] = dataclasses.field(default_factory=dict)
    quantisation: dict[str, float | None] = dataclasses.field(default_factory=dict)
    film: list[Filmed] = dataclasses.field(default_factory=list)
    train: Train | None = None
    code: Code | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """origin.json: the command that began a run."""

    command: str
    config: str
    overrides: list[str]
    code: Code | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
    """mixture.json."""

    sources: list[ledger.Entry]
    left_out: list[str]


def results(path: pathlib.Path) -> Results | None:
    """Reads results.json; None if there is none.

    Raises:
      UserError: it is damaged; names the file and the field.
    """
    if not path.exists():
        return None
    found = json_file.read(path, Results, fix=_FIX)
    if found.environment is not None:
        json_file.convert(found.environment, Environment, f"{path}, environment", fix=_FIX)
    for name in ("vqa", "train"):
        plain = {k: dataclasses.asdict(v) for k, v in found.vqa.items()}
        json_file.check_finite(plain if name == "vqa" else found.train, f"{path}", name)
    return found


def origin(path: pathlib.Path) -> Origin | None:
    """Reads origin.json; None if there is none.

    Raises:
      UserError: as `results`.
    """
    return json_file.read(path, Origin) if path.exists() else None


def mixture(path: pathlib.Path) -> Mixture | None:
    """Reads mixture.json; None if there is none.

    Raises:
      UserError: as `results`.
    """
    return json_file.read(path, Mixture) if path.exists() else None
