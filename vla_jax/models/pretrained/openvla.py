"""OpenVLA as its Hugging Face classes save it: towers with timm's names, projector, Llama 2.

Sources: openvla:prismatic/extern/hf/modeling_prismatic.py (LayerScale's `gamma` is stored as
`scale_factor`), timm:models/vision_transformer.py and layers/attention_pool.py. The last layer,
norm and pooling head of a tower are in the file although nobody asks them.
"""

from vla_jax.models.pretrained.huggingface import HEAD, both, decoder, mlp, norm, patches
from vla_jax.models.pretrained.table import Family, Piece, Row
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm_config import VLMConfig


def timm(config: ViTConfig, layer_scale: str = "gamma") -> tuple[Row, ...]:
    """Returns the rows of a Vision Transformer of timm.

    Args:
      config: the tower.
      layer_scale: what LayerScale's factors are called.
    """
    block = "blocks.{}"
    qkv = ("query", "key", "value")
    return (
        *patches("patch_embed.proj", config),
        Row("pos_embed", "p d -> 1 p d", "position"),
        Row("cls_token", "e d -> 1 e d", "extra", span=(0, 1)),
        Row("reg_token", "e d -> 1 e d", "extra", span=(1, None)),
        *norm(f"{block}.norm1", "blocks/attention_norm"),
        *norm(f"{block}.norm2", "blocks/mlp_norm"),
        *_packed(f"{block}.attn.qkv", tuple(f"blocks/{name}" for name in qkv)),
        *both(f"{block}.attn.proj", "blocks/out", "h k d -> d (h k)"),
        Row(f"{block}.ls1.{layer_scale}", "d -> d", "blocks/attention_scale"),
        Row(f"{block}.ls2.{layer_scale}", "d -> d", "blocks/mlp_scale"),
        *mlp(f"{block}.mlp", "blocks/"),
        *norm("norm", "norm"),
        Row("attn_pool.latent", "d -> 1 1 d", "pool/probe"),
        *both("attn_pool.q", "pool/query", "d h k -> (h k) d", "h k -> (h k)"),
        *_packed("attn_pool.kv", ("pool/key", "pool/value")),
        *both("attn_pool.proj", "pool/out", "h k d -> d (h k)"),
        *norm("attn_pool.norm", "pool/norm"),
        *mlp("attn_pool.mlp", "pool/"),
    )


def _packed(theirs: str, ours: tuple[str, ...]) -> tuple[Row, Row]:
    return (
        Row(f"{theirs}.weight", "n d h k -> (n h k) d", ours),
        Row(f"{theirs}.bias", "n h k -> (n h k)", tuple(f"{name}_bias" for name in ours)),
    )


def _projector(layers: int) -> tuple[Row, ...]:
    return tuple(
        row
        for i in range(layers)
        for row in (
            Row(f"fc{i + 1}.weight", "d m -> m d", f"kernel{i}"),
            Row(f"fc{i + 1}.bias", "d -> d", f"bias{i}"),
        )
    )


def openvla(config: VLMConfig) -> Family:
    """Returns the table of OpenVLA, with two towers or SigLIP alone."""
    towers = [
        Piece(("vision_backbone.featurizer.",), "vision/", timm(config.vision, "scale_factor"))
    ]
    if config.fused_vision is not None:
        rows = timm(config.fused_vision, "scale_factor")
        towers.append(Piece(("vision_backbone.fused_featurizer.",), "fused_vision/", rows))
    return Family(
        "OpenVLA",
        (
            *towers,
            Piece(("projector.",), "projector/", _projector(3)),
            Piece(("language_model.model.",), "decoder/", decoder()),
            Piece(("language_model.",), "decoder/", HEAD),
        ),
        ignored=(r".*\.rotary_emb\.inv_freq",),
    )


def timm_alone(config: VLMConfig) -> Family:
    """Returns the table of one tower as timm saves it."""
    return Family(
        "timm Vision Transformer",
        (Piece(("",), "vision/", timm(config.vision)),),
        ignored=(r"(head|fc_norm)\..*",),
    )
