"""Model FLOPs: what the matrix products of one example cost, by component.

A multiply-add is two FLOPs. Attention counts every query with every key, masked or not, and
elementwise work counts nothing (PaLM, appendix B), so a utilisation made of these numbers can be
compared with published ones. Masked views and padding are computed, and therefore counted.
"""

import itertools
from collections.abc import Mapping

from vla_jax.models import layers
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm_config import VLMConfig

COMPONENTS: tuple[str, ...] = ("vision", "projector", "decoder", "attention", "head")


def length(config: VLMConfig, *, images: int, prefix: int, suffix: int) -> int:
    """Returns the tokens that the decoder sees in training; the last suffix token is only asked.

    Args:
      config: the model.
      images: images of one example: views times history.
      prefix: prefix slots.
      suffix: suffix slots.
    """
    text = prefix + suffix - 1
    if config.images == "inline":
        return text  # images and state take slots of the prefix
    bos = config.images == "after_bos"  # stands before the images, its slot in the prefix empty
    return bos + images * config.image_tokens + bool(config.state) + text


def forward(
    config: VLMConfig, vocabulary: int, *, images: int, prefix: int, suffix: int
) -> dict[str, float]:
    """Returns the FLOPs of one example's forward pass.

    Args:
      config: the model.
      vocabulary: number of token ids, the rows of the output matrix.
      images: images of one example: views times history.
      prefix: prefix slots.
      suffix: suffix slots; the logits are computed at these alone.

    Returns:
      FLOPs of `vision` (the towers, their attention included), `projector` (and the state's),
      `decoder` (its matrices), `attention` (its products of queries, keys and values), `head`.
    """
    tokens = length(config, images=images, prefix=prefix, suffix=suffix)
    towers = [tower for tower in (config.vision, config.fused_vision) if tower is not None]
    d, h, g, k = (
        getattr(config.decoder, name) for name in ("width", "heads", "key_heads", "head_dim")
    )
    # The last layer of an unrolled loop goes on with the tokens that are asked: `Decoder`.
    asking = suffix if config.unroll >= config.decoder.depth else tokens
    going_on = (config.decoder.depth - 1) * tokens + asking
    matrices = going_on * (2 * h * k * d + 3 * d * config.decoder.mlp)
    keys = config.decoder.depth * tokens * 2 * d * g * k
    return {
        "vision": float(images * sum(map(_tower, towers))),
        "projector": float(_projector(config, sum(tower.width for tower in towers), images)),
        "decoder": 2.0 * (matrices + keys),
        "attention": 4.0 * going_on * tokens * h * k,
        "head": 2.0 * suffix * d * vocabulary,
    }


def training(
    forward: Mapping[str, float],
    trained: Mapping[str, float] | None = None,
    crossed: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Returns the FLOPs of a training step per example: forward, and both halves of the backward.

    Args:
      forward: FLOPs of the forward pass by component.
      trained: share of a component's matrices that are trained, 0..1; each of them costs its
        forward pass again, for its gradient. 1 where a component is not named.
      crossed: share of a component through which gradients pass on their way to what is trained,
        0..1; it costs the forward pass again, for the gradient of the activations. 1 where a
        component is not named. Attention has no matrices: its two halves are both of this kind.
    """
    trained, crossed = trained or {}, crossed or {}
    return {
        name: value
        * (
            1
            + crossed.get(name, 1.0)
            + (crossed if name == "attention" else trained).get(name, 1.0)
        )
        for name, value in forward.items()
    }


def shares(
    sizes: Mapping[str, int], trained: Mapping[str, int]
) -> tuple[dict[str, float], dict[str, float]]:
    """Returns what `training` asks of a run that trains some parameters.

    Args:
      sizes: parameters of the model by whole name, as in `core.trees.named_leaves`.
      trained: those that are trained; adapters have the names of what they adapt, perhaps with
        more behind it.

    Returns:
      The shares `trained` and `crossed`. Gradients cross all that lies behind something trained:
      behind the embedding, which stands at the decoder's input, the whole decoder.
    """
    wanted: dict[str, int] = dict.fromkeys(COMPONENTS, 0)
    whole: dict[str, int] = dict.fromkeys(COMPONENTS, 0)
    for counts, total in ((trained, wanted), (sizes, whole)):
        for name, size in counts.items():
            total[_component(name, "decoder/head" not in sizes)] += size
    share = {name: wanted[name] / max(whole[name], 1) for name in COMPONENTS}
    embedded = any(name.startswith("decoder/embedding") for name in trained)
    crossed, reached = {}, False
    for name in COMPONENTS:
        reached |= wanted[name] > 0 or (name == "decoder" and embedded)
        crossed[name] = float(reached)
    return share, crossed


def _component(name: str, tied: bool) -> str:
    part, _, rest = name.partition("/")
    if part in ("vision", "fused_vision"):
        return "vision"
    if part != "decoder":
        return "projector"
    if rest.startswith("head") or (tied and rest.startswith("embedding")):
        return "head"
    # An embedding that is only looked up costs nothing: it must not count as trained matrices.
    return "attention" if rest.startswith("embedding") else "decoder"


def recomputed(config: VLMConfig, forward: Mapping[str, float]) -> float:
    """Returns the FLOPs that `config.remat` adds to a training step of one example.

    Full remat runs the layers of both stacks once more; `dots` keeps all products but those of
    attention, `narrow` all of these but those that make hidden features; none touches projector
    and head. Those of the towers' attention, under a twentieth of the towers', are left out under
    `dots` and `narrow`.
    """
    again = {
        "none": {},
        "dots": {"attention": 1.0},
        "narrow": {**_hidden(config), "attention": 1.0},
        "full": {"vision": 1.0, "decoder": 1.0, "attention": 1.0},
    }
    return sum(share * forward[name] for name, share in again[config.remat].items())


def _hidden(config: VLMConfig) -> dict[str, float]:
    """Returns the share of a component's matrices that make hidden features, and are wide."""
    decoder, making, made = config.decoder, 0, 0
    for tower in (config.vision, config.fused_vision):
        if tower is not None:
            depth = max(tower.depth - tower.unused, 0)
            matrix = tower.width * tower.mlp * (not layers.is_narrow(tower.width, tower.mlp))
            making += depth * matrix
            made += depth * (4 * tower.width**2 + 2 * tower.width * tower.mlp)
    heads = 2 * (decoder.heads + decoder.key_heads) * decoder.head_dim
    gated = 2 * decoder.mlp * (not layers.is_narrow(decoder.width, decoder.mlp))
    return {
        "vision": making / max(made, 1),
        "decoder": gated / (heads + 3 * decoder.mlp),
    }


def _tower(config: ViTConfig) -> int:
    """Returns the FLOPs of one image in one tower."""
    widths = (3, *config.stem_widths, config.width)
    flops, side = 0, config.image_size
    for stride, (size, out) in zip(config.strides, itertools.pairwise(widths), strict=True):
        side //= stride
        flops += 2 * side * side * stride * stride * size * out
    tokens = config.patches + config.extra_tokens
    layer = 2 * tokens * config.width * (4 * config.width + 2 * config.mlp)
    attention = 4 * tokens * tokens * config.width
    return flops + (config.depth - config.unused) * (layer + attention)


def _projector(config: VLMConfig, features: int, images: int) -> int:
    features, width = features * config.shuffle**2, config.decoder.width
    sizes = {
        "linear": (features, width),
        "mlp2": (features, width, width),
        "mlp3": (features, 4 * features, width, width),
    }[config.projector]
    products = sum(size * out for size, out in itertools.pairwise(sizes))
    state = width * (config.state + width) if config.state else 0
    return 2 * (images * config.image_tokens * products + state)
