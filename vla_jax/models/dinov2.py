"""DINOv2's tower with registers, by name.

Source: timm:models/vision_transformer.py, vit_large_patch14_reg4_dinov2: a class token and four
registers in front (without positions), LayerScale, exact GELU, ImageNet's mean and deviation.
"""

import dataclasses

from vla_jax.models.vit import ViTConfig

L_14_REG4 = ViTConfig(
    width=1024,
    depth=24,
    heads=16,
    mlp=4096,
    activation="gelu_exact",
    extra_tokens=5,
    layer_scale=True,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)

OPENVLA_L_14_REG4 = dataclasses.replace(L_14_REG4, features="penultimate")
