"""What a released checkpoint holds, in words."""

from vla_jax.models import variants
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.pretrained.weights import Weights, with_own_numerics
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm_config import VLMConfig


def rows(weights: Weights) -> list[tuple[str, str]]:
    """Returns (what, value) pairs: family, sizes, dtypes, parameters per part, problems."""
    config, held = weights.config, weights.architecture.parts
    leaves = weights.leaves(config)
    problems = weights.problems(config, leaves)
    tensors = weights.files.tensors.values()
    fits = [name for name, known in variants.variants().items() if _is(weights, known)]
    prefixes = {piece.prefix for piece in weights.family.pieces}
    counts = {
        prefix: sum(leaf.size for name, leaf in leaves.items() if name.startswith(prefix))
        for prefix in sorted(prefixes)
    }
    return [
        ("family", weights.family.name),
        ("files", f"{len({tensor.file for tensor in tensors})}, {len(tensors):,} tensors"),
        ("dtype", ", ".join(sorted({tensor.kind for tensor in tensors}))),
        ("named size", ", ".join(fits) if len(held) == 3 and fits else "none"),
        *([("vision", _tower(config.vision))] if "vision" in held else []),
        *([("fused_vision", _tower(config.fused_vision))] if config.fused_vision else []),
        *([("decoder", _decoder(config.decoder, weights.vocabulary))] if "text" in held else []),
        *((f"parameters of {name.rstrip('/')}", f"{n:,}") for name, n in counts.items()),
        ("parameters", f"{sum(counts.values()):,}"),
        ("problems", "; ".join(problems.lines()) or "none"),
    ]


def _is(weights: Weights, known: VLMConfig) -> bool:
    """Tells whether a checkpoint is of a named size, resolution included."""
    own = weights.config
    same = known.vision.image_size == own.vision.image_size
    return same and not weights.differences(with_own_numerics(known, own))


def _tower(config: ViTConfig) -> str:
    return (
        f"{config.image_size} pixels in patches of {config.patch_size}, {config.depth} layers of "
        f"{config.width}, {config.heads} heads, mlp {config.mlp}"
    )


def _decoder(config: DecoderConfig, vocabulary: int) -> str:
    caps = {"attention": config.attention_softcap, "output": config.final_softcap}
    capped = "".join(f", {name} cap {cap:g}" for name, cap in caps.items() if cap is not None)
    return (
        f"{config.depth} layers of {config.width}, {config.heads} heads ({config.key_heads} of "
        f"keys) of {config.head_dim}, mlp {config.mlp}, {vocabulary:,} tokens{capped}"
    )
