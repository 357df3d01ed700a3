"""Format `hf_paligemma`: a folder that `transformers` 4.57 and 5 load without code of ours.

Tensors have the names of the hub (`huggingface.paligemma`, layout A), which every version reads;
what version 5 saves itself, version 4 reads wrongly without a word.
"""

import json
import math
import pathlib
from typing import Any

from vla_jax.core import trees
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.pretrained import huggingface, table
from vla_jax.models.vit import ViTConfig, sincos2d
from vla_jax.models.vlm import VLMConfig
from vla_jax.policy.export import tensors, weights
from vla_jax.policy.export.format import Format, Options, Rule, Wanted, refuse_unless
from vla_jax.policy.policy import Policy
from vla_jax.tokens.tokenizer import Special

_ACTIVATIONS = {"gelu": "gelu_pytorch_tanh", "gelu_exact": "gelu", "silu": "silu", "relu": "relu"}
_ROWS = 64  # vocabularies, <image> among them, are padded to a multiple of this


def check(wanted: Wanted) -> None:
    """Refuses a model that is no PaliGemma.

    Raises:
      UserError: names the field and what can be expressed.
    """
    config, vision, decoder = wanted.config, wanted.config.vision, wanted.config.decoder
    scale, usual = _query_scale(decoder), decoder.head_dim**-0.5
    first = not decoder.post_norms
    scales = math.isclose(scale, usual) if first else _is_whole(scale**-2)
    bakes = vision.positions == "learned" or wanted.options.dtype == "float32"
    softcaps = (decoder.attention_softcap, decoder.final_softcap)
    refuse_unless(
        "hf_paligemma",
        (
            Rule("config.model.images", config.images, config.images == "first", "first"),
            Rule(
                "config.model.attention",
                config.attention,
                config.attention == "prefix_lm",
                "prefix_lm",
            ),
            Rule("config.model.state", config.state, not config.state, "0"),
            Rule("config.model.fused_vision", "a tower", config.fused_vision is None, "none"),
            Rule("config.model.shuffle", config.shuffle, config.shuffle == 1, "1"),
            Rule(
                "config.model.projector", config.projector, config.projector == "linear", "linear"
            ),
            Rule(
                "config.model.vision.positions=sincos2d",
                wanted.options.dtype,
                bakes,
                "--dtype=float32, in which they can be stored as learned ones",
            ),
            *_tower_rules(vision),
            Rule(
                "config.model.decoder.norm_offset",
                decoder.norm_offset,
                decoder.norm_offset == 1,
                "1",
            ),
            Rule("config.model.decoder.tied", decoder.tied, decoder.tied, "True"),
            Rule("config.model.decoder.embedding_scale", False, decoder.embedding_scale, "True"),
            Rule(
                "config.model.decoder.query_scale",
                scale,
                scales,
                f"{usual:.4g} without post_norms, else n**-0.5 of a whole n",
            ),
            Rule(
                "config.model.decoder.attention_softcap, final_softcap",
                softcaps,
                softcaps == (None, None) or not first,
                "none, without post_norms",
            ),
        ),
    )


def _tower_rules(vision: ViTConfig) -> list[Rule]:
    half = (0.5, 0.5, 0.5)
    usual = {
        "extra_tokens": 0,
        "layer_scale": False,
        "features": "final",
        "mean": half,
        "std": half,
    }
    rules = [
        Rule(f"config.model.vision.{field}", found, found == expected, expected)
        for field, expected in usual.items()
        for found in (getattr(vision, field),)
    ]
    return [
        *rules,
        Rule(
            "config.model.vision.stem_strides",
            vision.stem_strides,
            len(vision.strides) == 1,
            "one stage",
        ),
        Rule("config.model.vision.depth", vision.depth, vision.depth > 0, "at least 1"),
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
    named = files(config, tokenizer.special, image_token, rows, options.dtype)
    for name, values in named.items():
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")


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
    return values | {
        "query_pre_attn_scalar": round(_query_scale(decoder) ** -2),
        "attn_logit_softcapping": decoder.attention_softcap,
        "final_logit_softcapping": decoder.final_softcap,
        "sliding_window": decoder.window or 4096,
    }


def _query_scale(decoder: DecoderConfig) -> float:
    return decoder.head_dim**-0.5 if decoder.query_scale is None else decoder.query_scale


def _is_whole(x: float) -> bool:
    return math.isclose(x, round(x), rel_tol=1e-9)


FORMAT = Format(
    name="hf_paligemma",
    programs=("torch_policy.py", "torch_hf.py", "exported_policy.py", "selftest.py"),
    packages={"torch": ">=2.4", "safetensors": ">=0.4", "transformers": ">=4.57,<6"},
    check=check,
    write=_write,
)
