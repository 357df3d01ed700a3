"""Format `hf_paligemma`: a folder that `transformers` 4.57 and 5 load without code of ours.

Tensors have the names of the hub (`huggingface.paligemma`, layout A), which every version reads;
what version 5 saves itself, version 4 reads wrongly without a word.
"""

import json
import math
import pathlib
from typing import Any

import numpy as np

from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models.pretrained import huggingface, table
from vla_jax.models.vit import sincos2d
from vla_jax.models.vlm import VLMConfig
from vla_jax.policy.export import weights
from vla_jax.policy.export.format import Format, Options, Wanted
from vla_jax.policy.policy import Policy
from vla_jax.tokens.tokenizer import Special

_ACTIVATIONS = {"gelu": "gelu_pytorch_tanh", "gelu_exact": "gelu", "silu": "silu", "relu": "relu"}
_ROWS = 64  # vocabularies are padded to a multiple of this; the first free row is <image>
_EMBEDDING = "decoder/embedding"


def check(wanted: Wanted) -> None:
    """Refuses a model that is no PaliGemma.

    Raises:
      UserError: names the field and what can be expressed.
    """
    config, half = wanted.config, (0.5, 0.5, 0.5)
    vision, decoder = config.vision, config.decoder
    usual = decoder.head_dim**-0.5
    scale_is_usual = decoder.query_scale is None or math.isclose(decoder.query_scale, usual)
    first = not decoder.post_norms
    rules = (
        ("model.images", config.images, config.images == "first", "first"),
        ("model.attention", config.attention, config.attention == "prefix_lm", "prefix_lm"),
        ("model.state", config.state, not config.state, "0"),
        ("model.fused_vision", "a tower", config.fused_vision is None, "none"),
        ("model.shuffle", config.shuffle, config.shuffle == 1, "1"),
        ("model.projector", config.projector, config.projector == "linear", "linear"),
        ("model.vision.stem_strides", vision.stem_strides, len(vision.strides) == 1, "one stage"),
        ("model.vision.depth", vision.depth, vision.depth > 0, "at least 1"),
        ("model.vision.extra_tokens", vision.extra_tokens, not vision.extra_tokens, "0"),
        ("model.vision.layer_scale", vision.layer_scale, not vision.layer_scale, "False"),
        ("model.vision.features", vision.features, vision.features == "final", "final"),
        ("model.vision.mean", vision.mean, vision.mean == half, half),
        ("model.vision.std", vision.std, vision.std == half, half),
        ("model.decoder.norm_offset", decoder.norm_offset, decoder.norm_offset == 1, "1"),
        ("model.decoder.tied", decoder.tied, decoder.tied, "True"),
        ("model.decoder.embedding_scale", False, decoder.embedding_scale, "True"),
        (
            "model.decoder.query_scale",
            decoder.query_scale,
            scale_is_usual or not first,
            f"head_dim**-0.5 = {usual:.4g}, without post_norms",
        ),
        (
            "model.decoder.attention_softcap",
            decoder.attention_softcap,
            decoder.attention_softcap is None or not first,
            "none, without post_norms",
        ),
        (
            "model.decoder.final_softcap",
            decoder.final_softcap,
            decoder.final_softcap is None or not first,
            "none, without post_norms",
        ),
    )
    for field, found, holds, expected in rules:
        if not holds:
            raise UserError(
                f"--format=hf_paligemma cannot express config.{field}",
                expected=expected,
                found=found,
                fix="Export with --format=torch, which expresses every model",
            )


def _write(folder: pathlib.Path, policy: Policy, config: VLMConfig, options: Options) -> None:
    size = policy.encoder.tokenizer.size
    rows = (size // _ROWS + 1) * _ROWS
    weights.save(folder, tensors(policy.params, config, rows), options.dtype, options.shard_bytes)
    policy.encoder.tokenizer.extended(["<image>"]).save(folder / "tokenizer.json")
    special = policy.encoder.tokenizer.special
    for name, values in files(config, special, size, rows, options.dtype).items():
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")


def tensors(params: Any, config: VLMConfig, rows: int) -> list[weights.Tensor]:
    """Returns the tensors under their names on the hub, the embedding padded to `rows`."""
    leaves = trees.named_leaves(params)
    if config.vision.positions == "sincos2d":  # a fixed table is a learned one that stayed
        leaves["vision/position"] = sincos2d(config.vision.grid, config.vision.width)
    leaves = {name: leaf for name, leaf in leaves.items() if not name.startswith("vision/pool/")}
    shapes = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    out = []
    for entry in table.entries(huggingface.paligemma(config), shapes):
        shape = entry.shape
        if entry.places[0].leaf == _EMBEDDING:
            shape = (rows, *shape[1:])
        out.append(
            weights.Tensor(
                name=entry.name,
                shape=shape,
                read=lambda entry=entry, shape=shape: _padded(read_entry(entry, leaves), shape),
            )
        )
    return out


def read_entry(entry: table.Entry, leaves: dict[str, Any]) -> np.ndarray:
    """Brings one tensor here: only its own part of the leaves that it is made of."""
    parts = [
        np.asarray(leaves[p.leaf] if p.index is None else leaves[p.leaf][p.index])
        for p in entry.places
    ]
    return np.asarray(entry.pack(parts))


def _padded(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Adds rows at the mean, which no row of the vocabulary loses to all the others."""
    if value.shape == shape:
        return value
    mean = value.mean(axis=0, dtype=np.float32, keepdims=True).astype(value.dtype)
    return np.concatenate([value, np.repeat(mean, shape[0] - len(value), axis=0)])


def files(
    config: VLMConfig, special: Special, image_token: int, rows: int, dtype: str
) -> dict[str, dict[str, Any]]:
    """Returns the JSON files by name.

    Args:
      config: sizes.
      special: ids of the special tokens.
      image_token: the id of `<image>`.
      rows: of the embedding.
      dtype: of the weights.
    """
    ids = {
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
        "pad_token_id": special.pad,
    }
    image = {
        "image_processor_type": "SiglipImageProcessor",
        "image_seq_length": config.vision.patches,
        "size": {"height": config.vision.image_size, "width": config.vision.image_size},
        "do_convert_rgb": None,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": list(config.vision.mean),
        "image_std": list(config.vision.std),
    }
    processor = {"processor_class": "PaliGemmaProcessor"}
    return {
        "config.json": {
            "architectures": ["PaliGemmaForConditionalGeneration"],
            "model_type": "paligemma",
            "torch_dtype": dtype,
            "image_token_index": image_token,
            "projection_dim": config.decoder.width,
            "hidden_size": config.decoder.width,
            "vocab_size": rows,
            "tie_word_embeddings": True,
            **ids,
            "vision_config": _vision(config),
            "text_config": _text(config, rows) | {"torch_dtype": dtype} | ids,
        },
        "generation_config.json": ids,
        "preprocessor_config.json": image | processor,
        "processor_config.json": {"image_processor": image} | processor,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "model_max_length": 8192,
            "clean_up_tokenization_spaces": False,
        }
        | processor,
    }


def _vision(config: VLMConfig) -> dict[str, Any]:
    vision = config.vision
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": vision.width,
        "intermediate_size": vision.mlp,
        "num_hidden_layers": vision.depth,
        "num_attention_heads": vision.heads,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "hidden_act": _ACTIVATIONS[vision.activation],
        "layer_norm_eps": 1e-6,
        "projection_dim": config.decoder.width,
        "num_image_tokens": vision.patches,
        "vision_use_head": False,
    }


def _text(config: VLMConfig, rows: int) -> dict[str, Any]:
    decoder = config.decoder
    activation = _ACTIVATIONS[decoder.activation]
    values = {
        "model_type": "gemma2" if decoder.post_norms else "gemma",
        "hidden_size": decoder.width,
        "intermediate_size": decoder.mlp,
        "num_hidden_layers": decoder.depth,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.key_heads,
        "head_dim": decoder.head_dim,
        "hidden_act": activation,
        "hidden_activation": activation,  # Gemma 2 reads this one
        "rms_norm_eps": decoder.norm_epsilon,
        "rope_theta": decoder.rope_base,
        "max_position_embeddings": 8192,
        "attention_bias": False,
        "vocab_size": rows,
        "num_image_tokens": config.vision.patches,
        "use_cache": True,
    }
    if not decoder.post_norms:
        return values
    scale = decoder.query_scale or decoder.head_dim**-0.5
    return values | {
        "query_pre_attn_scalar": _round(scale**-2),
        "attn_logit_softcapping": decoder.attention_softcap,
        "final_logit_softcapping": decoder.final_softcap,
        "sliding_window": decoder.window or 4096,
    }


def _round(x: float) -> float:
    """Takes 255.99999999999997 for 256."""
    return float(round(x)) if math.isclose(x, round(x), rel_tol=1e-9) else x


FORMAT = Format(
    name="hf_paligemma",
    programs=("torch_policy.py", "torch_hf.py", "exported_policy.py", "selftest.py"),
    packages={"torch": ">=2.4", "safetensors": ">=0.4", "transformers": ">=4.57,<6"},
    check=check,
    write=_write,
)
