"""Writes the files of OpenVLA-OFT that stand beside those of OpenVLA's model.

Source: openvla-oft:vla-scripts/finetune.py, `save_training_checkpoint`.
"""

import os
import pathlib
from typing import Any

import numpy as np

from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models.oft import OFTConfig
from vla_jax.models.pretrained import oft_towers, table, torch_file
from vla_jax.models.pretrained.filling import is_finite
from vla_jax.models.pretrained.oft import HEAD, PROPRIO, VISION, family
from vla_jax.models.pretrained.tensors import BFLOAT16

_RANK = 32  # of the adapters that their code makes, unless it is told otherwise


def save_parts(
    folder: str | os.PathLike[str],
    config: OFTConfig,
    params: Any,
    *,
    step: int,
    dtype: Any = BFLOAT16,
    rank: int = _RANK,
) -> None:
    """Writes the files of one step; the towers' with FiLM alone.

    Args:
      folder: an existing directory.
      config: the model.
      params: its parameters, nested dicts.
      step: for the names of the files.
      dtype: of the head and the towers; proprioception and FiLM are float32, as in releases.
      rank: of the adapters of the towers, which are merged here and zero in the file; it has to be
        the one that their code makes (`lora_rank`).

    Raises:
      UserError: a number does not fit its dtype.
    """
    leaves = trees.named_leaves(params)
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    parts: dict[str, dict[str, np.ndarray]] = {}
    for entry in table.entries(family(config.vlm), shapes):
        part, _, name = entry.name.partition(".")
        if part not in (HEAD, PROPRIO, VISION) or (part == VISION and not config.film):
            continue
        places = [
            leaves[p.leaf] if p.index is None else leaves[p.leaf][p.index] for p in entry.places
        ]
        is_film = part == VISION and oft_towers.FILM.search(entry.name)
        own = np.float32 if part == PROPRIO or is_film else dtype
        with np.errstate(over="ignore"):  # refused below
            value = np.asarray(entry.pack([np.asarray(p) for p in places])).astype(own)
        if not is_finite(value):
            raise UserError(f"parameter {entry.name}", expected="finite numbers", found="others")
        own_file = parts.setdefault(part, {})
        if part == VISION:
            own_file |= oft_towers.unmerged(entry.name, value, rank)
        else:
            own_file[name] = value
    for part, tensors in parts.items():
        torch_file.save(pathlib.Path(folder) / f"{part}--{step}_checkpoint.pt", tensors)
