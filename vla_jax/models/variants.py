"""Named sizes: values for VLMConfig, nothing else.

The RT-2 models are not public. Where a paper gives a total alone, the split that was chosen stands
beside it; their encoder-decoders become prefix decoders of the same class of size, as section 3.2
of RT-2 needs no more than a prefix that sees itself.
"""

import dataclasses

from vla_jax.models import dinov2, gemma, llama, siglip
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm_config import VLMConfig

TABLETOP_TINY = VLMConfig(
    vision=ViTConfig(
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
    decoder=DecoderConfig(
        width=128, depth=3, mlp=192, heads=4, key_heads=4, head_dim=32, activation="relu"
    ),
    dtype="float32",
    remat="none",
    unroll=3,
)

# Less than half of the parameters; the smaller size of the studies.
TABLETOP_MICRO = dataclasses.replace(
    TABLETOP_TINY,
    vision=dataclasses.replace(TABLETOP_TINY.vision, width=96, heads=3, mlp=128, stem_widths=(48,)),
    decoder=dataclasses.replace(
        TABLETOP_TINY.decoder, width=96, depth=2, mlp=128, heads=3, key_heads=3
    ),
    unroll=2,
)

PALIGEMMA_3B = VLMConfig(vision=siglip.SO400M_14, decoder=gemma.GEMMA_2B)

OPENVLA_7B = VLMConfig(
    vision=dinov2.OPENVLA_L_14_REG4,
    fused_vision=siglip.OPENVLA_SO400M_14,
    projector="mlp3",
    decoder=llama.LLAMA2_7B,
    attention="causal",
    images="after_bos",
)

# PaLI-3: ViT-G/14 and UL2 3B, 24 layers each way (RT-2, appendix D, counts the language model
# alone in the name). 48 layers of UL2-3B's width, without cross-attention.
_PALI_3B = VLMConfig(
    vision=siglip.BIG_G_14,
    decoder=DecoderConfig(width=2048, depth=48, mlp=6144, heads=32, key_heads=32, head_dim=64),
)

_VARIANTS = {
    "tabletop_tiny": TABLETOP_TINY,
    "tabletop_micro": TABLETOP_MICRO,
    "paligemma2_3b": dataclasses.replace(PALIGEMMA_3B, decoder=gemma.GEMMA2_2B),
    "paligemma2_10b": dataclasses.replace(PALIGEMMA_3B, decoder=gemma.GEMMA2_9B),
    "paligemma2_28b": dataclasses.replace(PALIGEMMA_3B, decoder=gemma.GEMMA2_27B),
    "openvla_7b": OPENVLA_7B,
    "openvla_siglip_7b": dataclasses.replace(
        OPENVLA_7B, vision=siglip.OPENVLA_SO400M_14, fused_vision=None, projector="mlp2"
    ),
    "rt2_pali_3b": _PALI_3B,
    # 5B in all, split not given: the parts of PaLI-3, which are of that size.
    "rt2_palix_5b": _PALI_3B,
    # ViT-22B and a 32B language model of 50 layers (PaLI-X, section 3).
    "rt2_palix_55b": VLMConfig(
        vision=siglip.VIT_22B_14,
        decoder=DecoderConfig(
            width=6144, depth=50, mlp=25600, heads=48, key_heads=48, head_dim=128
        ),
    ),
    # ViT-4B is ViT-e; PaLM 8B has 32 layers, one key head and a gated MLP (PaLM, table 1).
    "rt2_palme_12b": VLMConfig(
        vision=siglip.E_14,
        decoder=DecoderConfig(
            width=4096,
            depth=32,
            mlp=16384,
            heads=16,
            key_heads=1,
            head_dim=256,
            activation="silu",
        ),
        images="inline",
        state=8,
    ),
    # SmolVLM2-500M: SigLIP B/16 at 512 pixels, 64 image tokens, SmolLM2-360M with its own output.
    "smol_500m": VLMConfig(
        vision=dataclasses.replace(siglip.B_16, image_size=512),
        shuffle=4,
        decoder=dataclasses.replace(llama.SMOLLM2_360M, tied=False),
    ),
}

# Rows of the released embeddings. PaLI-X, PaLM-E and their tokenizers are not public: PaliGemma's,
# which is as large as the multilingual ones that they were trained with.
_VOCABULARIES = {"openvla": 32_064, "smol": 49_280, "paligemma": 257_152, "rt2": 257_152}


def variants() -> dict[str, VLMConfig]:
    """Returns every named model; `paligemma_3b_*` by resolution."""
    sizes = {
        f"paligemma_3b_{size}": dataclasses.replace(
            PALIGEMMA_3B, vision=dataclasses.replace(siglip.SO400M_14, image_size=size)
        )
        for size in (224, 448, 896)
    }
    return _VARIANTS | sizes


def vocabulary(config: VLMConfig) -> int | None:
    """Returns the published number of token ids of the named model with this decoder, if any."""
    sizes = ("width", "depth", "mlp", "heads", "key_heads", "head_dim")
    for name, variant in variants().items():
        if all(getattr(variant.decoder, s) == getattr(config.decoder, s) for s in sizes):
            families = (rows for family, rows in _VOCABULARIES.items() if name.startswith(family))
            return next(families, None)
    return None
