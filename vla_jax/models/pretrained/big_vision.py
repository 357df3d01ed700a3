"""PaliGemma 1 and 2 as big_vision saves them: one npz, layers stacked, names below `params/`.

Sources: big_vision:models/vit.py, models/ppp/gemma.py, gemma2.py, models/proj/paligemma/.
"""

from vla_jax.models.pretrained.table import Family, Piece, Row
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm_config import VLMConfig

ROOTS = ("params/", "")


def _vision(config: ViTConfig) -> tuple[Row, ...]:
    block = "Transformer/encoderblock"
    attention = f"{block}/MultiHeadDotProductAttention_0"
    patch = (("i", config.patch_size), ("j", config.patch_size), ("c", 3))
    return (
        Row("embedding/kernel", "(i j c) d -> i j c d", "stem0", patch),
        Row("embedding/bias", "d -> d", "stem0_bias"),
        Row("pos_embedding", "p d -> 1 p d", "position"),
        Row(f"{block}/LayerNorm_0/scale", "l d -> l d", "blocks/attention_norm_scale"),
        Row(f"{block}/LayerNorm_0/bias", "l d -> l d", "blocks/attention_norm_bias"),
        Row(f"{block}/LayerNorm_1/scale", "l d -> l d", "blocks/mlp_norm_scale"),
        Row(f"{block}/LayerNorm_1/bias", "l d -> l d", "blocks/mlp_norm_bias"),
        Row(f"{attention}/query/kernel", "l d h k -> l d h k", "blocks/query"),
        Row(f"{attention}/query/bias", "l h k -> l h k", "blocks/query_bias"),
        Row(f"{attention}/key/kernel", "l d h k -> l d h k", "blocks/key"),
        Row(f"{attention}/key/bias", "l h k -> l h k", "blocks/key_bias"),
        Row(f"{attention}/value/kernel", "l d h k -> l d h k", "blocks/value"),
        Row(f"{attention}/value/bias", "l h k -> l h k", "blocks/value_bias"),
        Row(f"{attention}/out/kernel", "l h k d -> l h k d", "blocks/out"),
        Row(f"{attention}/out/bias", "l d -> l d", "blocks/out_bias"),
        Row(f"{block}/MlpBlock_0/Dense_0/kernel", "l d m -> l d m", "blocks/up"),
        Row(f"{block}/MlpBlock_0/Dense_0/bias", "l m -> l m", "blocks/up_bias"),
        Row(f"{block}/MlpBlock_0/Dense_1/kernel", "l m d -> l m d", "blocks/down"),
        Row(f"{block}/MlpBlock_0/Dense_1/bias", "l d -> l d", "blocks/down_bias"),
        Row("Transformer/encoder_norm/scale", "d -> d", "norm_scale"),
        Row("Transformer/encoder_norm/bias", "d -> d", "norm_bias"),
    )


_PROJECTOR = (
    Row("img/head/kernel", "d m -> d m", "kernel0"),
    Row("img/head/bias", "d -> d", "bias0"),
)
_TEXT = (
    Row("embedder/input_embedding", "v d -> v d", "embedding"),
    Row("layers/pre_attention_norm/scale", "l d -> l d", "blocks/attention_norm"),
    Row("layers/post_attention_norm/scale", "l d -> l d", "blocks/post_attention_norm"),
    Row("layers/pre_ffw_norm/scale", "l d -> l d", "blocks/mlp_norm"),
    Row("layers/post_ffw_norm/scale", "l d -> l d", "blocks/post_mlp_norm"),
    Row("layers/attn/attn_vec_einsum/w", "l h k d -> l h k d", "blocks/out"),
    Row("layers/mlp/gating_einsum", "n l d m -> l n d m", ("blocks/gate", "blocks/up")),
    Row("layers/mlp/linear", "l m d -> l m d", "blocks/down"),
    Row("final_norm/scale", "d -> d", "norm"),
)
_GROUPED = (
    Row("layers/attn/q_einsum/w", "l d h k -> l h d k", "blocks/query"),
    Row("layers/attn/kv_einsum/w", "n l d h k -> l n h d k", ("blocks/key", "blocks/value")),
)
_FULL = (
    Row(
        "layers/attn/qkv_einsum/w",
        "n l d h k -> l n h d k",
        ("blocks/query", "blocks/key", "blocks/value"),
    ),
)


def paligemma(config: VLMConfig) -> Family:
    """Returns the table of PaliGemma 1 and 2; both norms of Gemma 2 are rows of the same list."""
    decoder = config.decoder
    attention = _FULL if decoder.key_heads == decoder.heads else _GROUPED
    return Family(
        "big_vision PaliGemma",
        (
            Piece(tuple(f"{root}img/" for root in ROOTS), "vision/", _vision(config.vision)),
            Piece(ROOTS, "projector/", _PROJECTOR),
            Piece(tuple(f"{root}llm/" for root in ROOTS), "decoder/", _TEXT + attention),
        ),
        ignored=(r"(opt|chrono)\b.*",),  # of a training that may go on there
    )
