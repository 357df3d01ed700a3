"""A policy -> a folder that runs in PyTorch alone.

model.safetensors   parameters, float32, under their names in the tree
tokenizer.json      the tokenizer
policy.json         action space, statistics, action token ids, prompt, layout, image, model
golden.npz          a few images with their prefixes and the tokens decoded by JAX
torch_policy.py     the program that runs them
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from vla_jax.core import config as config_lib
from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models.vlm import VLMConfig
from vla_jax.policy.observation import Observation, stack
from vla_jax.policy.policy import Policy
from vla_jax.tokens import prompts

FORMAT_VERSION = 1  # torch_policy.py reads this one
PROGRAM = "torch_policy.py"


def check_empty(out: str | os.PathLike[str]) -> None:
    """Refuses a place that holds something.

    Raises:
      UserError: `out` is a file, or a directory that is not empty.
    """
    path = pathlib.Path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(
            f"export to {path}",
            expected="a new or empty directory",
            found="files in it" if path.is_dir() else "a file",
            fix="Choose another directory or remove it",
        )


def write(
    out: str | os.PathLike[str],
    policy: Policy,
    config: VLMConfig,
    observations: Sequence[Observation],
    instructions: Sequence[str],
) -> None:
    """Writes the folder.

    Args:
      out: a new or empty directory.
      policy: what to export.
      config: sizes of its model.
      observations: golden ones.
      instructions: one for each of them.

    Raises:
      UserError: `out` is not empty or cannot be made.
    """
    check_empty(out)
    folder = pathlib.Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(
            f"export to {folder}", expected="a directory", found="a file on the way there"
        ) from error
    named = trees.named_leaves(jax.device_get(policy.params))
    tensors = {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in named.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    policy.encoder.tokenizer.save(folder / "tokenizer.json")
    (folder / "policy.json").write_text(json.dumps(describe(policy, config), indent=2) + "\n")
    _write_golden(folder / "golden.npz", policy, observations, instructions)
    # safetensors writes for the owner alone.
    shutil.copymode(folder / "policy.json", folder / "model.safetensors")
    shutil.copyfile(pathlib.Path(__file__).parents[1] / PROGRAM, folder / PROGRAM)


def describe(policy: Policy, config: VLMConfig) -> dict[str, Any]:
    """Returns everything beside parameters and vocabulary that acting depends on, as JSON."""
    encoder = policy.encoder
    wording = encoder.prompts.robot
    return {
        "format_version": FORMAT_VERSION,
        "action_spec": policy.action_tokens.spec.to_json(),
        "statistics": policy.action_tokens.statistics.to_json(),
        "action_token_ids": list(policy.action_tokens.ids),
        "chunk": encoder.chunk,
        "prompt": {"name": wording, "template": prompts.ROBOT[wording]},
        "special_tokens": dataclasses.asdict(encoder.tokenizer.special),
        "sequence": config_lib.to_json(encoder.layout),
        "views": list(policy.observer.views),
        "image": {
            "size": policy.observer.image_size,
            "channels": "RGB uint8",
            "resize": policy.observer.resize,  # to a square; `_resize` in torch_policy.py says how
            "range": [-1, 1],
        },
        "model": config_lib.to_json(config) | {"vocabulary": encoder.tokenizer.size},
    }


def _write_golden(
    path: pathlib.Path,
    policy: Policy,
    observations: Sequence[Observation],
    instructions: Sequence[str],
) -> None:
    values, tokens = policy.act_batch(observations, instructions)
    prefixes = [policy.encoder.prefix(text, robot=True) for text in instructions]
    np.savez_compressed(
        path,
        **stack(observations),
        instructions=np.array(instructions),
        prefix=np.stack([row for row, _ in prefixes]),
        prefix_length=np.array([length for _, length in prefixes], np.int32),
        tokens=tokens,
        values=values,
    )
