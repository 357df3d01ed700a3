"""Named sizes: values for VLMConfig, nothing else."""

from vla_jax.models.gemma import GemmaConfig
from vla_jax.models.siglip import SiglipConfig
from vla_jax.models.vlm import VLMConfig

TABLETOP_TINY = VLMConfig(
    vision=SiglipConfig(
        image_size=64,
        patch_size=16,
        width=128,
        depth=1,
        heads=4,
        mlp=256,
        activation="relu",
        positions="sincos2d",
        stem_strides=(4, 2, 2),
        stem_widths=(64, 96),
    ),
    decoder=GemmaConfig(width=128, depth=3, mlp=256, heads=4, key_heads=4, head_dim=32, activation="relu"),
    dtype="float32",
    remat="none",
    unroll=3,
)
