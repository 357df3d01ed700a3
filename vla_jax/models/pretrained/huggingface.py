"""Hugging Face transformers: PaliGemma 1 and 2, and SigLIP, DINOv2, Gemma and Llama by themselves.

Sources: transformers:models/{paligemma,siglip,dinov2_with_registers,gemma,gemma2,llama}. PaliGemma
is found under three sets of roots: on the hub (A, which is also what is written: every version
reads it), as version 5 saves it (B), and as a model holds it in memory (C, and C of version 4).
"""

from vla_jax.models.pretrained.table import Family, Piece, Row
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm_config import VLMConfig

_TIED = r"(.*\.)?lm_head\.weight"
_COMPUTED = r".*\.(rotary_emb\.inv_freq|position_ids)"


def both(theirs: str, ours: str, layout: str, bias: str = "d -> d") -> tuple[Row, Row]:
    """Returns the rows of a layer with weight and bias."""
    return (
        Row(f"{theirs}.weight", layout, ours),
        Row(f"{theirs}.bias", bias, f"{ours}_bias"),
    )


def norm(theirs: str, ours: str) -> tuple[Row, Row]:
    """Returns the rows of a LayerNorm."""
    return (
        Row(f"{theirs}.weight", "d -> d", f"{ours}_scale"),
        Row(f"{theirs}.bias", "d -> d", f"{ours}_bias"),
    )


def patches(theirs: str, config: ViTConfig) -> tuple[Row, Row]:
    """Returns the rows of the projection of patches, a convolution."""
    sizes = (("i", config.patch_size), ("j", config.patch_size), ("c", 3))
    return (
        Row(f"{theirs}.weight", "(i j c) d -> d c i j", "stem0", sizes),
        Row(f"{theirs}.bias", "d -> d", "stem0_bias"),
    )


def mlp(theirs: str, ours: str) -> tuple[Row, ...]:
    """Returns the rows of a feed-forward layer of two matrices."""
    return (
        *both(f"{theirs}.fc1", f"{ours}up", "d m -> m d", "m -> m"),
        *both(f"{theirs}.fc2", f"{ours}down", "m d -> d m"),
    )


def _heads(theirs: str, ours: str) -> tuple[Row, Row]:
    return both(theirs, ours, "d h k -> (h k) d", "h k -> (h k)")


def siglip(config: ViTConfig) -> tuple[Row, ...]:
    """Returns the rows of a SigLIP vision tower."""
    layer = "encoder.layers.{}"
    qkv = ("pool/query", "pool/key", "pool/value")
    return (
        *patches("embeddings.patch_embedding", config),
        Row("embeddings.position_embedding.weight", "p d -> p d", "position"),
        *norm(f"{layer}.layer_norm1", "blocks/attention_norm"),
        *norm(f"{layer}.layer_norm2", "blocks/mlp_norm"),
        *_heads(f"{layer}.self_attn.q_proj", "blocks/query"),
        *_heads(f"{layer}.self_attn.k_proj", "blocks/key"),
        *_heads(f"{layer}.self_attn.v_proj", "blocks/value"),
        *both(f"{layer}.self_attn.out_proj", "blocks/out", "h k d -> d (h k)"),
        *mlp(f"{layer}.mlp", "blocks/"),
        *norm("post_layernorm", "norm"),
        Row("head.probe", "d -> 1 1 d", "pool/probe"),
        Row("head.attention.in_proj_weight", "n d h k -> (n h k) d", qkv),
        Row("head.attention.in_proj_bias", "n h k -> (n h k)", tuple(f"{x}_bias" for x in qkv)),
        *both("head.attention.out_proj", "pool/out", "h k d -> d (h k)"),
        *norm("head.layernorm", "pool/norm"),
        *mlp("head.mlp", "pool/"),
    )


def dinov2(config: ViTConfig) -> tuple[Row, ...]:
    """Returns the rows of DINOv2 with registers.

    Its class token has a position, ours has none: it is added to the token.
    """
    layer = "encoder.layer.{}"
    position = "embeddings.position_embeddings"
    return (
        *patches("embeddings.patch_embeddings.projection", config),
        Row(position, "p d -> 1 p d", "position", skip=1),
        Row("embeddings.cls_token", "e d -> 1 e d", "extra", span=(0, 1), plus=position),
        Row("embeddings.register_tokens", "e d -> 1 e d", "extra", span=(1, None)),
        *norm(f"{layer}.norm1", "blocks/attention_norm"),
        *norm(f"{layer}.norm2", "blocks/mlp_norm"),
        *_heads(f"{layer}.attention.attention.query", "blocks/query"),
        *_heads(f"{layer}.attention.attention.key", "blocks/key"),
        *_heads(f"{layer}.attention.attention.value", "blocks/value"),
        *both(f"{layer}.attention.output.dense", "blocks/out", "h k d -> d (h k)"),
        Row(f"{layer}.layer_scale1.lambda1", "d -> d", "blocks/attention_scale"),
        Row(f"{layer}.layer_scale2.lambda1", "d -> d", "blocks/mlp_scale"),
        *mlp(f"{layer}.mlp", "blocks/"),
        *norm("layernorm", "norm"),
    )


def decoder(*, post_norms: bool = False) -> tuple[Row, ...]:
    """Returns the rows of Gemma 1 and Llama; of Gemma 2 with `post_norms`."""
    layer = "layers.{}"
    norms = {"input": "attention_norm", "post_attention": "mlp_norm"}
    if post_norms:
        norms |= {
            "post_attention": "post_attention_norm",
            "pre_feedforward": "mlp_norm",
            "post_feedforward": "post_mlp_norm",
        }
    matrices = {
        "self_attn.q_proj": ("query", "d h k -> (h k) d"),
        "self_attn.k_proj": ("key", "d h k -> (h k) d"),
        "self_attn.v_proj": ("value", "d h k -> (h k) d"),
        "self_attn.o_proj": ("out", "h k d -> d (h k)"),
        "mlp.gate_proj": ("gate", "d m -> m d"),
        "mlp.up_proj": ("up", "d m -> m d"),
        "mlp.down_proj": ("down", "m d -> d m"),
    }
    return (
        Row("embed_tokens.weight", "v d -> v d", "embedding"),
        *(
            Row(f"{layer}.{theirs}_layernorm.weight", "d -> d", f"blocks/{ours}")
            for theirs, ours in norms.items()
        ),
        *(
            Row(f"{layer}.{theirs}.weight", layout, f"blocks/{ours}")
            for theirs, (ours, layout) in matrices.items()
        ),
        Row("norm.weight", "d -> d", "norm"),
    )


HEAD = (Row("lm_head.weight", "v d -> v d", "head"),)


def _linear(root: str) -> str:
    return f"{root}multi_modal_projector.linear."


def paligemma(config: VLMConfig) -> Family:
    """Returns the table of PaliGemma 1 and 2; layout A is the one that is written."""
    vision = (
        "vision_tower.vision_model.",
        "vision_tower.",
        "model.vision_tower.",
        "model.vision_tower.vision_model.",
    )
    projector = (
        Row("weight", "d m -> m d", "kernel0"),
        Row("bias", "d -> d", "bias0"),
    )
    text = ("language_model.model.", "model.language_model.")
    return Family(
        "Hugging Face PaliGemma",
        (
            Piece(vision, "vision/", siglip(config.vision)),
            Piece((_linear(""), _linear("model.")), "projector/", projector),
            Piece(text, "decoder/", decoder(post_norms=config.decoder.post_norms)),
        ),
        ignored=(_TIED, _COMPUTED),
    )


def language_model(config: VLMConfig) -> Family:
    """Returns the table of a Llama, Gemma or Gemma 2 by itself."""
    tied = (_TIED,) if config.decoder.tied else ()
    return Family(
        "Hugging Face language model",
        (
            Piece(("model.", ""), "decoder/", decoder(post_norms=config.decoder.post_norms)),
            Piece(("",), "decoder/", HEAD),
        ),
        ignored=(_COMPUTED, *tied),
    )


def siglip_alone(config: VLMConfig) -> Family:
    """Returns the table of SigLIP's vision tower; its text tower is not wanted."""
    return Family(
        "Hugging Face SigLIP",
        (Piece(("vision_model.", ""), "vision/", siglip(config.vision)),),
        ignored=(_COMPUTED, r"text_model\..*", "logit_scale", "logit_bias"),
    )


def dinov2_alone(config: VLMConfig) -> Family:
    """Returns the table of DINOv2 with registers."""
    return Family(
        "Hugging Face DINOv2",
        (Piece(("dinov2_with_registers.", "dinov2.", ""), "vision/", dinov2(config.vision)),),
        ignored=(r".*mask_token", r"classifier\..*"),
    )
