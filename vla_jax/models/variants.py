"""Named sizes: values for VLMConfig, nothing else."""

from vla_jax.models.gemma import GemmaConfig
from vla_jax.models.siglip import SiglipConfig
from vla_jax.models.vlm import VLMConfig

TABLETOP_TINY = VLMConfig(
    vision=SiglipConfig(
        image_size=48,
        patch_size=12,
        width=128,
        depth=0,
        heads=4,
        mlp=192,
        activation="relu",
        positions="sincos2d",
        stem_strides=(4, 3),
        stem_widths=(64,),
    ),
    decoder=GemmaConfig(
        width=128, depth=3, mlp=192, heads=4, key_heads=4, head_dim=32, activation="relu"
    ),
    dtype="float32",
    remat="none",
    unroll=3,
)
