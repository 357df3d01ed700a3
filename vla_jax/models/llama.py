"""Llama's decoders, by name.

Sources: transformers:models/llama (RMSNorm without offset, SiLU, an output matrix of its own, no
scale on the embeddings); the published config.json of Llama-2-7b and SmolLM2-360M.
"""

from vla_jax.models.decoder import DecoderConfig

LLAMA2_7B = DecoderConfig(
    width=4096,
    depth=32,
    mlp=11008,
    heads=32,
    key_heads=32,
    head_dim=128,
    activation="silu",
    norm_offset=0.0,
    norm_epsilon=1e-5,
    embedding_scale=False,
    tied=False,
)
SMOLLM2_360M = DecoderConfig(
    width=960,
    depth=32,
    mlp=2560,
    heads=15,
    key_heads=5,
    head_dim=64,
    activation="silu",
    rope_base=100_000.0,
    norm_offset=0.0,
    norm_epsilon=1e-5,
    embedding_scale=False,
)
