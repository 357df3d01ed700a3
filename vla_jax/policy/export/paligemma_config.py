"""The JSON files of a PaliGemma folder, as transformers 4.57 and 5 read them."""

from typing import Any

from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.tokens.tokenizer import Special

_ACTIVATIONS = {"gelu": "gelu_pytorch_tanh", "gelu_exact": "gelu", "silu": "silu", "relu": "relu"}


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
    image = _images(config)
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


def _images(config: VLMConfig) -> dict[str, Any]:
    return {
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
        "query_pre_attn_scalar": round(query_scale(decoder) ** -2),
        "attn_logit_softcapping": decoder.attention_softcap,
        "final_logit_softcapping": decoder.final_softcap,
        "sliding_window": decoder.window or 4096,
    }


def query_scale(decoder: DecoderConfig) -> float:
    """Returns the factor on the attention logits."""
    return decoder.head_dim**-0.5 if decoder.query_scale is None else decoder.query_scale
