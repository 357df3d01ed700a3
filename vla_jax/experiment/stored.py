"""The JSON files of a workdir as others read them: their fields, checked."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypedDict

from vla_jax.core import json_file, paths
from vla_jax.data.ledger import Entry
from vla_jax.eval.rate import Rate
from vla_jax.experiment.workdir import RESULTS

_EVALUATE = "Remove it, or evaluate again with vla-jax eval"


class _Code(TypedDict):
    revision: str | None
    versions: dict[str, str]


class _Film(TypedDict):
    split: str
    seed: int
    instruction: str
    success: bool
    steps: int


class _Training(TypedDict):
    steps: int
    seconds: float
    samples_per_s: float


class _Results(TypedDict, total=False):
    success: dict[str, Rate]
    wrong_block: dict[str, Rate]
    vqa: dict[str, Rate]
    open_loop: dict[str, float | None]
    quantisation: dict[str, float | None]
    latency: dict[str, float | None]
    environment: dict[str, Any] | None
    film: list[_Film]
    code: _Code
    train: _Training
    evaluated: dict[str, Any]
    left_out: list[str]


class _Environment(TypedDict):
    name: str


class _Origin(TypedDict):
    command: str
    config: str
    overrides: list[str]
    code: _Code


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
    """What a run trains on.

    Attributes:
      sources: the ledger.
      left_out: lines about what of the datasets is not used.
    """

    sources: list[Entry]
    left_out: list[str]


def results(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Reads the results.json of an evaluation; None where there is none.

    Returns:
      Its JSON values, such as `Results.to_json` returns them and `finish` adds to.

    Raises:
      UserError: it is damaged; names the field.
    """
    path = pathlib.Path(paths.expand(folder)) / RESULTS
    if not path.exists():
        return None
    values = json_file.read(path, dict[str, Any], fix=_EVALUATE)
    json_file.convert(values, _Results, os.fspath(path), fix=_EVALUATE)
    if values.get("environment") is not None:
        what = f"{path}, field environment"
        json_file.convert(values["environment"], _Environment, what, fix=_EVALUATE)
    for name in ("vqa", "train"):
        json_file.check_finite(values.get(name), os.fspath(path), name)
    return values


def origin(path: pathlib.Path) -> Mapping[str, Any] | None:
    """Reads an origin.json; None where there is none.

    Raises:
      UserError: it is damaged; names the field.
    """
    return json_file.read(path, _Origin, fix="Remove it") if path.exists() else None


def mixture(path: pathlib.Path) -> Mixture | None:
    """Reads a mixture.json; None where there is none.

    Raises:
      UserError: it is damaged; names the field.
    """
    return json_file.read(path, Mixture, fix="Remove it") if path.exists() else None
