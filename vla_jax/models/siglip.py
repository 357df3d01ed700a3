"""SigLIP's towers and the larger Vision Transformers of the PaLI family, by name.

Sources: big_vision:models/vit.py (`decode_variant`: B, L, So400m, g, G, e), Dehghani et al. 2023
(ViT-22B, table 1). ViT-22B's parallel layers and query-key norms are left out: the tower is as wide
and as deep, and has the same number of parameters to a tenth of a percent.
"""

import dataclasses

from vla_jax.models.vit import ViTConfig

SO400M_14 = ViTConfig()
B_16 = ViTConfig(patch_size=16, width=768, depth=12, heads=12, mlp=3072)
L_16 = ViTConfig(patch_size=16, width=1024, depth=24, heads=16, mlp=4096)
BIG_G_14 = ViTConfig(width=1664, depth=48, heads=16, mlp=8192)
E_14 = ViTConfig(width=1792, depth=56, heads=16, mlp=15360)
VIT_22B_14 = ViTConfig(width=6144, depth=48, heads=48, mlp=24576)

# timm's vit_so400m_patch14_siglip_224 as OpenVLA uses it: exact GELU, the layer before the last,
# with the pooling head that nobody asks.
OPENVLA_SO400M_14 = dataclasses.replace(
    SO400M_14, activation="gelu_exact", features="penultimate", pool=True
)
