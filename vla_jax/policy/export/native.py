"""Format `torch`: our own names; `torch_model.py` computes every model that we have."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vla_jax.core import trees
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.policy.export import weights
from vla_jax.policy.export.format import ALWAYS, Format, Options, Wanted
from vla_jax.policy.policy import Policy


def tensors(params: Any) -> Sequence[weights.Tensor]:
    """Returns the parameters under their names in the tree."""
    return [
        weights.Tensor(name=name, shape=tuple(leaf.shape), read=lambda leaf=leaf: np.asarray(leaf))
        for name, leaf in trees.named_leaves(params).items()
    ]


def _check(wanted: Wanted) -> None:
    """Everything can be expressed."""


def _write(folder: pathlib.Path, policy: Policy, config: VLMConfig, options: Options) -> None:
    weights.save(folder, tensors(policy.params), options.dtype, options.shard_bytes)
    policy.encoder.tokenizer.save(folder / "tokenizer.json")


FORMAT = Format(
    name="torch",
    programs=("torch_policy.py", "torch_model.py", *ALWAYS),
    packages={"torch": ">=2.4", "safetensors": ">=0.4"},
    check=_check,
    write=_write,
)
