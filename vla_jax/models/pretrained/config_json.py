"""The sizes of a tower or a decoder from a config.json of Hugging Face.

A config.json leaves out what equals the default of its class, so those defaults are here too.
Source: transformers:models/*/configuration_*.py, of the classes named in `_DEFAULTS`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict, cast

from msgspec import Meta

from vla_jax.core import json_file
from vla_jax.core.errors import UserError
from vla_jax.models import dinov2 as dinov2_sizes
from vla_jax.models import layers
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.vit import ViTConfig

Json = Mapping[str, Any]

_Size = Annotated[int, Meta(gt=0, le=10**6)] | None
_Layers = Annotated[int, Meta(gt=0, le=10**4)] | None
_Factor = Annotated[float, Meta(gt=0)] | None


class _Sizes(TypedDict, total=False):
    """The fields of a tower or a decoder that are read below; null stands for the default."""

    hidden_size: _Size
    intermediate_size: _Size
    num_hidden_layers: _Layers
    num_attention_heads: _Size
    num_key_value_heads: _Size
    head_dim: _Size
    image_size: _Size
    patch_size: _Size
    sliding_window: _Size
    num_register_tokens: Annotated[int, Meta(ge=0)] | None
    mlp_ratio: _Factor
    query_pre_attn_scalar: _Factor
    attn_logit_softcapping: _Factor
    final_logit_softcapping: _Factor
    rms_norm_eps: _Factor
    layer_norm_eps: _Factor
    rope_theta: _Factor
    rope_parameters: dict[str, Any] | None
    rope_scaling: dict[str, Any] | None
    hidden_act: str | None
    attention_bias: bool | None
    mlp_bias: bool | None
    tie_word_embeddings: bool | None
    use_swiglu_ffn: bool | None
    model_type: str | None


class _Config(_Sizes, total=False):
    architecture: str
    text_config: _Sizes
    vision_config: _Sizes
    timm_model_ids: list[str]
    use_fused_vision_backbone: bool | None


_GEMMA_SIZES = {
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
}
_DEFAULTS: dict[str, Json] = {
    "gemma": _GEMMA_SIZES,
    "gemma2": {
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 4096,
    },
    "llama": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "hidden_act": "silu",
    },
    "siglip_vision_model": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
    },
    "dinov2_with_registers": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "mlp_ratio": 4,
        "image_size": 224,
        "patch_size": 16,
        "num_register_tokens": 4,
        "hidden_act": "gelu",
    },
}
_ACTIVATIONS: dict[str, layers.Activation] = {
    "gelu": "gelu_exact",
    "gelu_pytorch_tanh": "gelu",
    "silu": "silu",
    "relu": "relu",
}


def check(config: Json, what: str) -> None:
    """Checks the types and ranges of what a config.json says, if it says it.

    Args:
      config: its content.
      what: its name, for the message.

    Raises:
      UserError: names the field.
    """
    json_file.convert(dict(config), _Config, what)


def decoder(config: Json, kind: str) -> DecoderConfig:
    """Returns the sizes of a `llama`, `gemma` or `gemma2`.

    Raises:
      UserError: it has what is not built here.
    """
    said = dict(_DEFAULTS[kind]) | {k: v for k, v in config.items() if v is not None}
    get = said.get
    rope = get("rope_parameters") or {}
    scaled = get("rope_scaling") or rope.get("rope_type", "default") != "default"
    if scaled or get("attention_bias") or get("mlp_bias"):
        raise UserError(
            f"config.json of the {kind} decoder",
            expected="plain rotary positions and no biases, others are not built",
            found=f"rope_scaling {get('rope_scaling') or rope}, "
            f"biases {get('attention_bias')}, {get('mlp_bias')}",
        )
    width, heads = said["hidden_size"], said["num_attention_heads"]
    is_gemma = kind != "llama"
    scalar, is_second = get("query_pre_attn_scalar"), kind == "gemma2"
    return DecoderConfig(
        width=width,
        depth=said["num_hidden_layers"],
        mlp=said["intermediate_size"],
        heads=heads,
        key_heads=get("num_key_value_heads") or heads,
        head_dim=get("head_dim") or width // heads,
        # Early files of Gemma say `gelu` and mean the tanh form that it was trained with.
        activation="gelu" if is_gemma else _activation(get("hidden_act")),
        rope_base=float(get("rope_theta") or rope.get("rope_theta", 10_000.0)),
        norm_offset=1.0 if is_gemma else 0.0,
        norm_epsilon=get("rms_norm_eps") or 1e-6,
        post_norms=is_second,
        embedding_scale=is_gemma,
        tied=bool(get("tie_word_embeddings", is_gemma)),
        query_scale=scalar**-0.5 if scalar and is_second else None,
        attention_softcap=config.get("attn_logit_softcapping", 50.0) if is_second else None,
        final_softcap=config.get("final_logit_softcapping", 30.0) if is_second else None,
        window=get("sliding_window") if is_second else None,
    )


def siglip(config: Json) -> ViTConfig:
    """Returns the sizes of SigLIP's vision tower.

    Raises:
      UserError: it has what is not built here.
    """
    get = (dict(_DEFAULTS["siglip_vision_model"]) | dict(config)).__getitem__
    _check_epsilon(config)
    return ViTConfig(
        image_size=get("image_size"),
        patch_size=get("patch_size"),
        width=get("hidden_size"),
        depth=get("num_hidden_layers"),
        heads=get("num_attention_heads"),
        mlp=get("intermediate_size"),
        activation=_activation(get("hidden_act")),
    )


def dinov2(config: Json, kind: str) -> ViTConfig:
    """Returns the sizes of DINOv2; `kind` is `dinov2` or `dinov2_with_registers`.

    Raises:
      UserError: it has what is not built here.
    """
    patch = {"patch_size": 14, "num_register_tokens": 0} if kind == "dinov2" else {}
    get = (dict(_DEFAULTS["dinov2_with_registers"]) | patch | dict(config)).__getitem__
    _check_epsilon(config)
    if config.get("use_swiglu_ffn"):
        raise UserError("config.json of DINOv2", expected="no SwiGLU, not built", found="SwiGLU")
    return dataclasses.replace(
        dinov2_sizes.L_14_REG4,
        image_size=get("image_size"),
        patch_size=get("patch_size"),
        width=get("hidden_size"),
        depth=get("num_hidden_layers"),
        heads=get("num_attention_heads"),
        mlp=int(get("hidden_size") * get("mlp_ratio")),
        activation=_activation(get("hidden_act")),
        extra_tokens=1 + get("num_register_tokens"),
    )


def _activation(name: object) -> layers.Activation:
    if name not in _ACTIVATIONS:
        raise UserError("config.json: hidden_act", expected=", ".join(_ACTIVATIONS), found=name)
    return _ACTIVATIONS[cast(str, name)]


def _check_epsilon(config: Json) -> None:
    if (epsilon := config.get("layer_norm_eps", 1e-6)) != 1e-6:
        raise UserError("config.json: layer_norm_eps", expected="1e-6", found=epsilon)
