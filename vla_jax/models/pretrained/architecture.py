"""What model a checkpoint holds: its family, and a VLMConfig, from config.json or from shapes.

Sources: big_vision:models/ppp/gemma.py and gemma2.py, openvla:prismatic/extern/hf/
configuration_prismatic.py.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from vla_jax.core.errors import UserError
from vla_jax.models import dinov2, gemma, siglip
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.pretrained import big_vision, config_json, huggingface, openvla
from vla_jax.models.pretrained.files import Files
from vla_jax.models.pretrained.table import Family
from vla_jax.models.pretrained.tensors import Tensor
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm_config import VLMConfig

Json = Mapping[str, Any]
Tensors = Mapping[str, Tensor]


# Heads of timm's towers, which neither their names nor their shapes tell.
_TIMM_HEADS = {"vit_small": 6, "vit_base": 12, "vit_large": 16, "vit_so400m": 16}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a checkpoint holds.

    Attributes:
      table: makes the key table of a model that is to be read from it.
      config: the model; parts that are not in the checkpoint are as VLMConfig has them.
      parts: which are: `vision`, `projector`, `text`.
    """

    table: Callable[[VLMConfig], Family]
    config: VLMConfig
    parts: tuple[str, ...] = ("vision", "projector", "text")


def infer(files: Files, given: VLMConfig | None = None) -> Architecture:
    """Tells the architecture of a checkpoint.

    Args:
      files: the opened checkpoint.
      given: a model that says the heads of a timm tower that is not a known one.

    Raises:
      UserError: it is none of the families, or uses what is not built here.
    """
    config, tensors = files.config, files.tensors
    try:
        if config is None:
            return _from_names(files)
        config_json.check(config, f"checkpoint {files.path}: its config.json")
        kind = config.get("model_type", config.get("architecture"))
        if kind == "paligemma":
            return Architecture(huggingface.paligemma, _paligemma(config))
        if kind == "openvla":
            return Architecture(openvla.openvla, _openvla(config, tensors, given))
        if kind in ("llama", "gemma", "gemma2"):
            alone = VLMConfig(decoder=config_json.decoder(config, kind))
            return Architecture(huggingface.language_model, alone, ("text",))
        if kind in ("siglip", "siglip_vision_model"):
            pool = any("head.probe" in name for name in tensors)
            tower = config_json.siglip(config.get("vision_config", config))
            alone = VLMConfig(vision=dataclasses.replace(tower, pool=pool))
            return Architecture(huggingface.siglip_alone, alone, ("vision",))
        if kind in ("dinov2", "dinov2_with_registers"):
            alone = VLMConfig(vision=config_json.dinov2(config, kind))
            return Architecture(huggingface.dinov2_alone, alone, ("vision",))
        if isinstance(kind, str) and "architecture" in config:
            tower = dataclasses.replace(
                _timm(tensors, "", kind, None if given is None else given.vision), features="final"
            )
            return Architecture(openvla.timm_alone, VLMConfig(vision=tower), ("vision",))
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise UserError(
            f"checkpoint {files.path}: its config.json",
            expected="the sizes of the model",
            found=f"{type(error).__name__} {error}",
        ) from error
    raise UserError(
        f"checkpoint {files.path}: its config.json",
        expected="model_type paligemma, openvla, llama, gemma, gemma2, siglip or dinov2",
        found=kind,
    )


def _from_names(files: Files) -> Architecture:
    for root in big_vision.ROOTS:
        if f"{root}llm/embedder/input_embedding" in files.tensors:
            shapes = {
                name.removeprefix(root): tensor.shape for name, tensor in files.tensors.items()
            }
            try:
                config = _big_vision(shapes)
            except (KeyError, ValueError) as error:
                raise UserError(
                    f"checkpoint {files.path}",
                    expected="the tensors of PaliGemma as big_vision names and shapes them",
                    found=f"{type(error).__name__} {error}",
                ) from error
            return Architecture(big_vision.paligemma, config)
    shown = ", ".join(sorted(files.tensors)[:5]) or "no tensor"
    raise UserError(
        f"checkpoint {files.path}: unknown without a config.json",
        expected="img/* and llm/* of big_vision's PaliGemma",
        found=shown,
        fix="Put the config.json of the model beside its safetensors",
    )


def _big_vision(shapes: Mapping[str, tuple[int, ...]]) -> VLMConfig:
    block = "img/Transformer/encoderblock"
    patch, _, _, _ = shapes["img/embedding/kernel"]
    side = math.isqrt(shapes["img/pos_embedding"][1])
    depth, width, heads, _ = shapes[f"{block}/MultiHeadDotProductAttention_0/query/kernel"]
    vision = ViTConfig(
        image_size=side * patch,
        patch_size=patch,
        width=width,
        depth=depth,
        heads=heads,
        mlp=shapes[f"{block}/MlpBlock_0/Dense_0/kernel"][2],
    )
    layers_, text_heads, head_dim, text_width = shapes["llm/layers/attn/attn_vec_einsum/w"]
    grouped = shapes.get("llm/layers/attn/kv_einsum/w")
    decoder = DecoderConfig(
        width=text_width,
        depth=layers_,
        mlp=shapes["llm/layers/mlp/linear"][1],
        heads=text_heads,
        key_heads=grouped[2] if grouped else text_heads,
        head_dim=head_dim,
    )
    if "llm/layers/post_ffw_norm/scale" in shapes:
        # Gemma 2 27B alone scales its queries by width / heads; shapes do not tell which it is.
        known = gemma.GEMMA2_27B
        sizes = (decoder.width, decoder.depth, decoder.heads)
        is_27b = sizes == (known.width, known.depth, known.heads)
        like = known if is_27b else gemma.GEMMA2_2B
        decoder = dataclasses.replace(
            decoder,
            post_norms=True,
            query_scale=known.query_scale if is_27b else head_dim**-0.5,
            attention_softcap=like.attention_softcap,
            window=like.window,
        )
    return VLMConfig(vision=vision, decoder=decoder)


def _paligemma(config: Json) -> VLMConfig:
    text = config["text_config"]
    return VLMConfig(
        vision=config_json.siglip(config["vision_config"]),
        decoder=config_json.decoder(text, text.get("model_type", "gemma")),
    )


def _openvla(config: Json, tensors: Tensors, given: VLMConfig | None) -> VLMConfig:
    fused = bool(config.get("use_fused_vision_backbone", False))
    names = config["timm_model_ids"]
    roots = ["vision_backbone.featurizer.", "vision_backbone.fused_featurizer."][: 1 + fused]
    hints = (None, None) if given is None else (given.vision, given.fused_vision)
    towers = [
        _timm(tensors, root, name, hint)
        for root, name, hint in zip(roots, names, hints, strict=False)
    ]
    return VLMConfig(
        vision=towers[0],
        fused_vision=towers[1] if fused else None,
        projector="mlp3" if fused else "mlp2",
        decoder=config_json.decoder(config["text_config"], "llama"),
        attention="causal",
        images="after_bos",
    )


def _timm(tensors: Tensors, root: str, name: str, hint: ViTConfig | None) -> ViTConfig:
    """Reads a tower's sizes from its shapes; its heads from its name, or from `hint`."""
    names = {key.removeprefix(root) for key in tensors if key.startswith(root)}
    match = re.match(r"vit_[a-z0-9]+", name)
    heads = _TIMM_HEADS.get(match[0]) if match else None
    if heads is None and hint is None:
        raise UserError(
            f"config.json: tower {name}",
            expected=f"one of {', '.join(_TIMM_HEADS)}, whose heads are known",
            found=name,
            fix="Give the model's VLMConfig",
        )
    width, _, patch, _ = tensors[f"{root}patch_embed.proj.weight"].shape
    side = math.isqrt(tensors[f"{root}pos_embed"].shape[1])
    is_dinov2 = "cls_token" in names
    like = dinov2.OPENVLA_L_14_REG4 if is_dinov2 else siglip.OPENVLA_SO400M_14
    registers = tensors[f"{root}reg_token"].shape[1] if "reg_token" in names else 0
    return dataclasses.replace(
        like,
        image_size=side * patch,
        patch_size=patch,
        width=width,
        depth=sum(bool(re.fullmatch(r"blocks\.\d+\.norm1\.weight", key)) for key in names),
        heads=hint.heads if heads is None and hint is not None else heads,
        mlp=tensors[f"{root}blocks.0.mlp.fc1.weight"].shape[0],
        extra_tokens=registers + is_dinov2,
        layer_scale=any(".ls1." in key for key in names),
        pool="attn_pool.latent" in names,
    )
