"""LoRA adapters as a folder for huggingface/peft: `adapter_config.json` and safetensors.

Source: huggingface/peft:src/peft/utils/save_and_load.py, tuners/lora/config.py. Names and layouts
of the modules come from the family's table. Where one of their matrices packs several of ours,
the adapters stand block by block in one of a rank so many times as large.
"""

import dataclasses
import json
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import einops
import numpy as np
from safetensors.numpy import save_file

from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models.lora import Lora
from vla_jax.models.pretrained.table import Entry, Family, Place, entries


def save(
    folder: pathlib.Path,
    lora: Lora,
    adapters: Any,
    params: Any,
    family: Family,
    *,
    base: str,
    names: Collection[str] | None = None,
) -> None:
    """Writes adapters that `peft.PeftModel.from_pretrained(model, folder)` reads.

    Args:
      folder: made if it is not there.
      lora: what was adapted.
      adapters: values, as `Lora.init` returns them.
      params: the parameters they belong to, or their shapes.
      family: the table of the PyTorch model.
      base: name or path of the model to adapt, noted in the configuration.
      names: the parameters that this model has in memory; None for those of transformers 5.

    Raises:
      UserError: an adapted parameter has no module in that model.
    """
    modules = _modules(lora, params, family, names)
    named = {name: np.asarray(leaf) for name, leaf in trees.named_leaves(adapters).items()}
    tensors, ranks = {}, {}
    for module, (entry, places) in modules.items():
        a, b = _factors(entry, places, named)
        ranks[module] = len(a)
        for part, value in (("lora_A", a), ("lora_B", b)):
            tensors[f"base_model.model.{module}.{part}.weight"] = np.ascontiguousarray(value)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    text = json.dumps(_config(lora, ranks, base), indent=2)
    (folder / "adapter_config.json").write_text(f"{text}\n", encoding="utf-8")


def _config(lora: Lora, ranks: Mapping[str, int], base: str) -> dict[str, Any]:
    """Returns PEFT's configuration; packed matrices keep the scale alpha / rank."""
    larger = {module: rank for module, rank in ranks.items() if rank != lora.config.rank}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.config.rank,
        "lora_alpha": lora.config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(ranks),
        "rank_pattern": larger,
        "alpha_pattern": {module: lora.config.scale * rank for module, rank in larger.items()},
    }


def _modules(
    lora: Lora, params: Any, family: Family, names: Collection[str] | None
) -> dict[str, tuple[Entry, list[tuple[int, Place]]]]:
    """Returns module -> its tensor and the adapted places in it, with their numbers."""
    if names is None:
        family = in_memory(family)
    shapes = {name: leaf.shape for name, leaf in trees.named_leaves(params).items()}
    targets = set(lora.targets)
    out = {}
    for entry in entries(family, shapes, names):
        places = [(n, each) for n, each in enumerate(entry.places) if each.leaf in targets]
        module, _, kind = entry.name.rpartition(".")
        if places and kind == "weight":
            out[module] = entry, places
    found = {place.leaf for _, places in out.values() for _, place in places}
    if missing := sorted(targets - found):
        raise UserError(
            "config.strategy.lora.targets",
            expected=f"parameters that are modules of their own in {family.name}",
            found=", ".join(missing),
        )
    return out


def in_memory(family: Family) -> Family:
    """Returns the table with the names that a model's modules have, where files have others."""
    pieces = []
    for piece in family.pieces:
        root = next((root for root in piece.roots if root.startswith("model.")), piece.roots[0])
        pieces.append(dataclasses.replace(piece, roots=(root,)))
    return dataclasses.replace(family, pieces=tuple(pieces))


def _factors(
    entry: Entry, places: list[tuple[int, Place]], named: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns A [r, inputs] and B [outputs, r] of one module; of a convolution [r, c, i, j]."""
    ours, theirs = ([*_axes(side)] for side in entry.layout.split(" -> "))
    packed = "n" if len(entry.places) > 1 else ""
    outside, inside = theirs[0], theirs[1:]
    made = {*outside.strip("()").split()}
    inputs = [axis for axis in ours if axis not in made]
    outputs = [axis for axis in ours if axis in made and axis != packed]
    rest = outside.replace("(n ", "(")
    sizes = entry.sizes if "(" in "".join(ours) else {}  # the sides of a patch
    ones = " 1" * (len(inside) - 1)
    tall, wide = [], []
    for number, place in places:
        layer = ... if place.index is None else place.index
        a, b = (named[f"{place.leaf}/{part}"][layer] for part in "ab")
        tall.append(einops.rearrange(a, f"{' '.join(inputs)} r -> r {' '.join(inside)}", **sizes))
        b = einops.rearrange(b, f"r {' '.join(outputs)} -> {rest} r")
        if packed:
            block = np.zeros((len(entry.places), *b.shape), b.dtype)
            block[number] = b
            b = einops.rearrange(block, "n o r -> (n o) r")
        wide.append(einops.rearrange(b, f"o r -> o r{ones}"))
    return np.concatenate(tall), np.concatenate(wide, axis=1)


def _axes(side: str) -> list[str]:
    """Splits one side of an einops pattern into axes: `(i j c) d` are two."""
    out, open_ = [], False
    for word in side.split():
        if open_:
            out[-1] += f" {word}"
        else:
            out.append(word)
        open_ = (open_ or word.startswith("(")) and not word.endswith(")")
    return out
