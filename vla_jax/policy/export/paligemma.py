"""Format `hf_paligemma`: a folder that `transformers` 4.57 and 5 load without code of ours.

Tensors have the names of the hub (`huggingface.paligemma`, layout A), which every version reads;
what version 5 saves itself, version 4 reads wrongly without a word.
"""

import json
import math
import pathlib

from vla_jax.core import trees
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.pretrained import huggingface, table
from vla_jax.models.vit import sincos2d
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.policy.export import paligemma_config, tensors, weights
from vla_jax.policy.export.format import ALWAYS, Format, Options, Rule, Wanted, equal, refuse_unless
from vla_jax.policy.policy import Policy

_ROWS = 64  # vocabularies, <image> among them, are padded to a multiple of this


def check(wanted: Wanted) -> None:
    """Refuses a model that is no PaliGemma.

    Raises:
      UserError: names the field and what can be expressed.
    """
    config, vision = wanted.config, wanted.config.vision
    half = (0.5, 0.5, 0.5)
    usual = {
        "images": "first",
        "attention": "prefix_lm",
        "state": 0,
        "fused_vision": None,
        "shuffle": 1,
        "projector": "linear",
    }
    tower = {
        "extra_tokens": 0,
        "layer_scale": False,
        "features": "final",
        "mean": half,
        "std": half,
    }
    strides, where = vision.stem_strides, "config.model.vision"
    bakes = vision.positions == "learned" or wanted.options.dtype == "float32"
    rules = (
        *equal("config.model", config, usual),
        *equal(where, vision, tower),
        Rule(f"{where}.stem_strides", strides, len(vision.strides) == 1, "one stage"),
        Rule(f"{where}.depth", vision.depth, vision.depth > 0, "at least 1"),
        Rule(
            f"{where}.positions=sincos2d",
            wanted.options.dtype,
            bakes,
            "--dtype=float32, in which they can be stored as learned ones",
        ),
        *_decoder_rules(config.decoder),
    )
    refuse_unless("hf_paligemma", rules)


def _decoder_rules(decoder: DecoderConfig) -> list[Rule]:
    where, gemma = "config.model.decoder", not decoder.post_norms
    scale, usual = paligemma_config.query_scale(decoder), decoder.head_dim**-0.5
    whole = math.isclose(scale**-2, round(scale**-2), rel_tol=1e-9)
    none = {"attention_softcap": None, "final_softcap": None}
    return [
        *equal(where, decoder, {"norm_offset": 1.0, "tied": True, "embedding_scale": True}),
        *(equal(where, decoder, none) if gemma else ()),
        Rule(
            f"{where}.query_scale",
            scale,
            math.isclose(scale, usual) if gemma else whole,
            f"{usual:.4g} without post_norms, else n**-0.5 of a whole n",
        ),
    ]


def _write(folder: pathlib.Path, policy: Policy, config: VLMConfig, options: Options) -> None:
    tokenizer = policy.encoder.tokenizer.extended(["<image>"])  # which may have it already
    rows = math.ceil(max(tokenizer.size, policy.encoder.vocabulary) / _ROWS) * _ROWS
    leaves = trees.named_leaves(policy.params)
    if config.vision.positions == "sincos2d":  # a fixed table is a learned one that stayed
        leaves["vision/position"] = sincos2d(config.vision.grid, config.vision.width)
    leaves = {name: leaf for name, leaf in leaves.items() if not name.startswith("vision/pool/")}
    shapes = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    entries = table.entries(huggingface.paligemma(config), shapes)
    weights.save(
        folder,
        tensors.packed(entries, leaves, {"decoder/embedding": rows}),
        options.dtype,
        options.shard_bytes,
    )
    tokenizer.save(folder / "tokenizer.json")
    image_token = tokenizer.id("<image>")
    assert image_token is not None
    named = paligemma_config.files(config, tokenizer.special, image_token, rows, options.dtype)
    for name, values in named.items():
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")


FORMAT = Format(
    name="hf_paligemma",
    programs=("torch_policy.py", "torch_hf.py", *ALWAYS),
    packages={"torch": ">=2.4", "safetensors": ">=0.4", "transformers": ">=4.57,<6"},
    check=check,
    write=_write,
)
