"""Gemma's decoders, by name.

Sources: big_vision:models/ppp/gemma.py and gemma2.py; transformers:models/gemma2 (soft-caps,
query_pre_attn_scalar). Gemma 2 limits every second layer to a window of 4096 tokens, which no
sequence here reaches. PaliGemma 2 was trained without the cap on the output logits, and fine-tuning
from it leaves it out too (big_vision:configs/proj/paligemma/README.md), so it is None here; an
imported checkpoint says for itself.
"""

from vla_jax.models.decoder import DecoderConfig

GEMMA_2B = DecoderConfig()


def _gemma2(
    width: int, depth: int, mlp: int, heads: int, key_heads: int, head_dim: int, scalar: float
) -> DecoderConfig:
    return DecoderConfig(
        width=width,
        depth=depth,
        mlp=mlp,
        heads=heads,
        key_heads=key_heads,
        head_dim=head_dim,
        post_norms=True,
        query_scale=scalar**-0.5,
        attention_softcap=50.0,
        window=4096,
    )


GEMMA2_2B = _gemma2(2304, 26, 9216, 8, 4, 256, 256)
GEMMA2_9B = _gemma2(3584, 42, 14336, 16, 8, 256, 256)
GEMMA2_27B = _gemma2(4608, 46, 36864, 32, 16, 128, 144)
