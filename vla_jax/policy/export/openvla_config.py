"""The JSON files of an OpenVLA folder. Source: the published folder of openvla-7b."""

from typing import Any

from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.tokens.tokenizer import Special

PADDING = 64  # rows of the embedding behind those of the vocabulary
_MODELLING, _PROCESSING = "modeling_prismatic", "processing_prismatic"
_PROCESSOR = f"{_PROCESSING}.PrismaticProcessor"


def towers(config: VLMConfig) -> list[ViTConfig]:
    """Returns the one or two towers."""
    return [tower for tower in (config.vision, config.fused_vision) if tower is not None]


def config(config: VLMConfig, special: Special, rows: int) -> dict[str, Any]:
    """Returns config.json, but for what the policy adds.

    Args:
      config: sizes.
      special: ids of the special tokens.
      rows: of the embedding.
    """
    count, fused = len(towers(config)), config.fused_vision is not None
    return {
        "architectures": ["OpenVLAForActionPrediction"],
        "auto_map": {
            "AutoConfig": "configuration_prismatic.OpenVLAConfig",
            "AutoModelForVision2Seq": f"{_MODELLING}.OpenVLAForActionPrediction",
        },
        "model_type": "openvla",
        "arch_specifier": "no-align+fused-gelu-mlp" if fused else "no-align+gelu-mlp",
        "vision_backbone_id": "dinosiglip-vit-so-224px" if fused else "siglip-vit-so400m",
        "use_fused_vision_backbone": fused,
        "timm_override_act_layers": [None] * count,
        "image_sizes": [config.vision.image_size] * count,
        "image_resize_strategy": "resize-naive",
        "llm_backbone_id": "llama2-7b-pure",
        "hf_llm_id": "meta-llama/Llama-2-7b-hf",
        "llm_max_length": 2048,
        "pad_to_multiple_of": PADDING,
        "pad_token_id": special.pad,
        "output_projector_states": False,
        "text_config": _text(config, special, rows),
        "transformers_version": "4.40.1",
    }


def beside(config: VLMConfig, special: Special) -> dict[str, dict[str, Any]]:
    """Returns the files beside config.json by name."""
    return {
        "generation_config.json": {
            "bos_token_id": special.bos,
            "eos_token_id": special.eos,
            "pad_token_id": special.pad,
            "transformers_version": "4.40.1",
        },
        "preprocessor_config.json": _images(config),
        "tokenizer_config.json": {
            "tokenizer_class": "LlamaTokenizer",
            "processor_class": "PrismaticProcessor",
            "auto_map": {"AutoProcessor": _PROCESSOR},
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<PAD>",
            "unk_token": "<unk>",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 2048,
        },
    }


def _images(config: VLMConfig) -> dict[str, Any]:
    size, both = config.vision.image_size, towers(config)
    return {
        "auto_map": {
            "AutoImageProcessor": f"{_PROCESSING}.PrismaticImageProcessor",
            "AutoProcessor": _PROCESSOR,
        },
        "image_processor_type": "PrismaticImageProcessor",
        "processor_class": "PrismaticProcessor",
        "use_fused_vision_backbone": len(both) > 1,
        "image_resize_strategy": "resize-naive",
        "input_sizes": [[3, size, size] for _ in both],
        "interpolations": ["bicubic" for _ in both],
        "means": [list(tower.mean) for tower in both],
        "stds": [list(tower.std) for tower in both],
    }


def _text(config: VLMConfig, special: Special, rows: int) -> dict[str, Any]:
    decoder = config.decoder
    return {
        "model_type": "llama",
        "hidden_size": decoder.width,
        "intermediate_size": decoder.mlp,
        "num_hidden_layers": decoder.depth,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.key_heads,
        "rms_norm_eps": decoder.norm_epsilon,
        "rope_theta": decoder.rope_base,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "vocab_size": rows,
        "pad_token_id": special.pad,
    }
