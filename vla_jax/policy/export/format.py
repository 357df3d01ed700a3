"""What a format of export is: what it can express, the files it writes, what runs them."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping

from vla_jax.core.errors import UserError
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.policy.export.weights import SHARD_BYTES, Dtype
from vla_jax.policy.policy import Policy
from vla_jax.tokens.encoder import Encoder

# The stand-alone files that every folder has beside what computes.
ALWAYS = (
    "exported_policy.py",
    "exported_checks.py",
    "exported_images.py",
    "exported_manifest.py",
    "exported_tensors.py",
    "exported_tokens.py",
    "selftest.py",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen about an export.

    Attributes:
      dtype: of the weights.
      shard_bytes: largest size of one file of weights.
      openvla_code: a directory with OpenVLA's modelling files, for the format that copies them.
      peft: whether a LoRA run's adapters are written beside the merged weights.
      timm_models: timm's names of the vision towers, for OpenVLA with towers of its own.
    """

    dtype: Dtype = "float32"
    shard_bytes: int = SHARD_BYTES
    peft: bool = False
    openvla_code: pathlib.Path | None = None
    timm_models: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """A policy that is to be exported, before its parameters are read.

    Attributes:
      config: sizes of its model.
      encoder: its tokens.
      robot: the robot it is for.
      images: of one example: views times steps.
      options: what was chosen.
    """

    config: VLMConfig
    encoder: Encoder
    robot: str
    images: int
    options: Options


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of folder.

    Attributes:
      name: on the command line and in policy.json.
      programs: the stand-alone files copied into the folder; the first is run.
      packages: what these need beside numpy and tokenizers: package -> versions that work.
      check: raises UserError for what the format cannot express.
      write: writes weights and files of the format into a folder.
    """

    name: str
    programs: tuple[str, ...]
    packages: Mapping[str, str]
    check: Callable[[Wanted], None]
    write: Callable[[pathlib.Path, Policy, VLMConfig, Options], None]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A condition of a format.

    Attributes:
      field: what it is about.
      found: its value.
      holds: whether the format can express it.
      expected: what it can express.
    """

    field: str
    found: object
    holds: bool
    expected: object


def equal(where: str, values: object, usual: Mapping[str, object]) -> list[Rule]:
    """Returns the rules that fields of `values`, which is config field `where`, are as usual."""
    return [
        Rule(f"{where}.{field}", found, found == expected, expected)
        for field, expected in usual.items()
        for found in (getattr(values, field),)
    ]


def refuse_unless(form: str, rules: Iterable[Rule]) -> None:
    """Names the first rule that does not hold.

    Raises:
      UserError: there is one.
    """
    for rule in rules:
        if not rule.holds:
            raise UserError(
                f"--format={form} cannot express {rule.field}",
                expected=rule.expected,
                found=rule.found,
                fix="Export with --format=torch, which expresses every model",
            )
