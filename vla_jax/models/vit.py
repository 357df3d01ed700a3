"""The vision tower: a pre-norm Vision Transformer, images -> patch features.

SigLIP and DINOv2 are this module with other values (`siglip.py`, `dinov2.py`). Sources:
big_vision:models/vit.py and timm:models/vision_transformer.py. The stem is one projection of a
patch; with `stem_strides` it becomes a pyramid of non-overlapping projections, which a small model
trained from scratch needs to tell shapes apart.
"""

import dataclasses
import math
from typing import Annotated, Literal

import einops
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vla_jax.core.arrays import Array, Float
from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, Range, Size
from vla_jax.models import attention, layers

# Per layer and image, what features are scaled by (less 1), and what is added: [l, b, d] each.
Modulation = tuple[Array, Array]

Width = Annotated[int, Range(1, 2**17)]
Channel = Annotated[float, Range(-10, 10)]
Scale = Annotated[float, Range(0, 100, above=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(Checked):
    """Sizes of the tower; the defaults are SigLIP So400m/14 at 224 pixels.

    Attributes:
      image_size: height and width of the input, pixels.
      patch_size: pixels per patch side; its square is what one token sees.
      width: feature size d.
      depth: number of layers; 0 hands the stem's patches straight to the decoder.
      heads: attention heads.
      mlp: hidden size of the feed-forward layer.
      activation: of the stem and the feed-forward layers.
      positions: learned position table, or fixed two-dimensional sines (`sincos2d`).
      stem_strides: merging factors of the stem's stages, product = patch_size; () is one stage.
      stem_widths: feature sizes between the stages, one fewer than strides.
      extra_tokens: learned tokens in front of the patches, without position (DINOv2: the class
        token and its registers); they are not among the features.
      layer_scale: whether a learned factor per feature scales what a layer adds (DINOv2).
      features: `final` normalises the last layer's output; `penultimate` takes that of the layer
        before, as it is (OpenVLA, LLaVA). The last layer and norm are kept for export alone.
      pool: whether there is a head that pools the features by attention (SigLIP's own).
      mean: subtracted from each channel of pixels in 0..1.
      std: divides each channel after that.
    """

    image_size: Annotated[int, Range(1, 4096)] = 224
    patch_size: Annotated[int, Range(1, 4096)] = 14
    width: Width = 1152
    depth: Annotated[int, Range(0, 1024)] = 27
    heads: Annotated[int, Range(1, 1024)] = 16
    mlp: Size = 4304
    activation: layers.Activation = "gelu"
    positions: Literal["learned", "sincos2d"] = "learned"
    stem_strides: tuple[Annotated[int, Range(1, 4096)], ...] = ()
    stem_widths: tuple[Width, ...] = ()
    extra_tokens: Annotated[int, Range(0, 1024)] = 0
    layer_scale: bool = False
    features: Literal["final", "penultimate"] = "final"
    pool: bool = False
    mean: tuple[Channel, Channel, Channel] = (0.5, 0.5, 0.5)
    std: tuple[Scale, Scale, Scale] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch_size or self.width % self.heads:
            raise UserError(
                "config.model.vision",
                expected="patch_size divides image_size and heads divides width",
                found=f"image_size {self.image_size}, patch_size {self.patch_size}, "
                f"width {self.width}, heads {self.heads}",
            )
        if self.features == "penultimate" and self.depth < 2:
            raise UserError(
                "config.model.vision.depth",
                expected="at least 2 for features=penultimate",
                found=self.depth,
            )
        if self.positions == "sincos2d" and self.width % 4:
            raise UserError(
                "config.model.vision.width",
                expected="a multiple of 4 for positions=sincos2d",
                found=self.width,
            )
        if math.prod(self.strides) != self.patch_size or (
            len(self.stem_widths) != len(self.strides) - 1
        ):
            raise UserError(
                "config.model.vision.stem_strides",
                expected=f"a product of {self.patch_size} and one stem_width between two stages",
                found=f"strides {self.stem_strides}, widths {self.stem_widths}",
            )

    @property
    def strides(self) -> tuple[int, ...]:
        """The merging factors, one stage of `patch_size` by default."""
        return self.stem_strides or (self.patch_size,)

    @property
    def grid(self) -> int:
        """Patches per image side."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Image tokens, p."""
        return self.grid**2

    @property
    def unused(self) -> int:
        """Layers that do not count for the features."""
        return int(self.features == "penultimate")


class _Layer(nnx.Module):
    """Attention and a feed-forward layer, with biases: what a block and the pooling head share."""

    def __init__(self, config: ViTConfig, init: layers.Initializer, out: float):
        d, h, k, m = config.width, config.heads, config.width // config.heads, config.mlp
        self.config = config
        self.query = init.normal((d, h, k), ("embed", "heads", "head_dim"), d**-0.5)
        self.query_bias = init.constant((h, k), ("heads", "head_dim"), 0)
        self.key = init.normal((d, h, k), ("embed", "heads", "head_dim"), d**-0.5)
        self.key_bias = init.constant((h, k), ("heads", "head_dim"), 0)
        self.value = init.normal((d, h, k), ("embed", "heads", "head_dim"), d**-0.5)
        self.value_bias = init.constant((h, k), ("heads", "head_dim"), 0)
        self.out = init.normal((h, k, d), ("heads", "head_dim", "embed"), out * d**-0.5)
        self.out_bias = init.constant((d,), ("norm",), 0)
        self.up = init.normal((d, m), ("embed", "mlp"), d**-0.5)
        self.up_bias = init.constant((m,), ("mlp",), 0)
        self.down = init.normal((m, d), ("mlp", "embed"), out * m**-0.5)
        self.down_bias = init.constant((d,), ("norm",), 0)

    def _attend(
        self,
        asking: Float[Array, "b q d"],
        x: Float[Array, "b p d"],
        backend: attention.Backend = "xla",
    ) -> Float[Array, "b q d"]:
        query, key, value = (
            layers.heads(part, kernel, bias)
            for part, kernel, bias in (
                (asking, self.query, self.query_bias),
                (x, self.key, self.key_bias),
                (x, self.value, self.value_bias),
            )
        )
        y = attention.attend(query, key, value, None, backend=backend)
        y = layers.product("bphk,hkd->bpd", y, self.out)
        return y + self.out_bias[...].astype(x.dtype)[None, None]

    def _feed(self, x: Float[Array, "b p d"]) -> Float[Array, "b p d"]:
        x = layers.activate(layers.dense(x, self.up, self.up_bias), self.config.activation)
        return layers.dense(x, self.down, self.down_bias)


class ViTBlock(_Layer):
    """One layer; parameters carry the leading `layers` axis when `init` stacks."""

    def __init__(self, config: ViTConfig, init: layers.Initializer):
        # keeps the residual stream's variance with depth
        super().__init__(config, init, (2 * config.depth) ** -0.5)
        d = config.width
        self.attention_norm_scale = init.constant((d,), ("norm",), 1)
        self.attention_norm_bias = init.constant((d,), ("norm",), 0)
        self.mlp_norm_scale = init.constant((d,), ("norm",), 1)
        self.mlp_norm_bias = init.constant((d,), ("norm",), 0)
        if config.layer_scale:
            self.attention_scale = init.constant((d,), ("norm",), 1)
            self.mlp_scale = init.constant((d,), ("norm",), 1)

    def __call__(
        self,
        x: Float[Array, "b p d"],
        backend: attention.Backend = "xla",
        modulation: Modulation | None = None,
    ) -> Float[Array, "b p d"]:
        """Adds attention and feed-forward to the residual stream, modulated in between."""
        y = layers.layer_norm(x, self.attention_norm_scale[...], self.attention_norm_bias[...])
        y = self._attend(y, y, backend)
        x = x + (layers.scale(y, self.attention_scale) if self.config.layer_scale else y)
        if modulation is not None:
            scale, shift = (part[:, None].astype(x.dtype) for part in modulation)
            x = x * (1 + scale) + shift
        y = self._feed(layers.layer_norm(x, self.mlp_norm_scale[...], self.mlp_norm_bias[...]))
        return x + (layers.scale(y, self.mlp_scale) if self.config.layer_scale else y)


class Pool(_Layer):
    """SigLIP's head: one learned query attends over the features."""

    def __init__(self, config: ViTConfig, init: layers.Initializer):
        self.probe = init.normal((config.width,), ("norm",), config.width**-0.5)
        super().__init__(config, init, 1.0)
        self.norm_scale = init.constant((config.width,), ("norm",), 1)
        self.norm_bias = init.constant((config.width,), ("norm",), 0)

    def __call__(self, x: Float[Array, "b p d"]) -> Float[Array, "b d"]:
        """Returns one vector per image."""
        shape = (x.shape[0], 1, x.shape[2])
        y = self._attend(jnp.broadcast_to(self.probe[...].astype(x.dtype), shape), x)
        z = self._feed(layers.layer_norm(y, self.norm_scale[...], self.norm_bias[...]))
        return (y + z)[:, 0]


class ViT(nnx.Module):
    """Images, normalised -> patch features."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs, dtype: jnp.dtype):
        init = layers.Initializer(rngs, dtype)
        widths = (3, *config.stem_widths, config.width)
        self.config = config
        for i, stride in enumerate(config.strides):
            fan_in = stride * stride * widths[i]
            last = i == len(config.strides) - 1
            std = fan_in**-0.5 if last else (2 / fan_in) ** 0.5
            kernel = init.normal((fan_in, widths[i + 1]), ("patch", "embed"), std)
            setattr(self, f"stem{i}", kernel)
            setattr(self, f"stem{i}_bias", init.constant((widths[i + 1],), ("norm",), 0))
        if config.positions == "learned":
            shape = (config.patches, config.width)
            self.position = init.normal(shape, ("position", "embed"), config.width**-0.5)
        if config.extra_tokens:
            shape = (config.extra_tokens, config.width)
            self.extra = init.normal(shape, ("position", "embed"), config.width**-0.5)
        if config.depth - config.unused:
            stacked = layers.Initializer(rngs, dtype, config.depth - config.unused)
            self.blocks = ViTBlock(config, stacked)
        if config.unused:
            self.unused = ViTBlock(config, init)
        self.norm_scale = init.constant((config.width,), ("norm",), 1)
        self.norm_bias = init.constant((config.width,), ("norm",), 0)
        if config.pool:
            self.pool = Pool(config, init)

    def normalize(self, images: Float[Array, "b y x 3"]) -> Float[Array, "b y x 3"]:
        """Returns images of 0..255 as the tower was trained on them."""
        std, offset = (
            jnp.asarray(values, images.dtype)[None, None, None]
            for values in (
                [255 * s for s in self.config.std],
                [m / s for m, s in zip(self.config.mean, self.config.std, strict=True)],
            )
        )
        return images / std - offset

    def __call__(
        self,
        images: Float[Array, "b y x 3"],
        *,
        remat: layers.Remat = "none",
        unroll: int = 1,
        backend: attention.Backend = "xla",
        modulation: Modulation | None = None,
    ) -> Float[Array, "b p d"]:
        """Returns features of normalised `images`, row by row.

        Args:
          images: normalised.
          remat: what the backward pass recomputes.
          unroll: layers per loop iteration.
          backend: see `attention.attend`.
          modulation: of the layers that count for the features (FiLM); None for none.
        """
        x = images
        for i, stride in enumerate(self.config.strides):
            if i:
                x = layers.activate(x, self.config.activation)
            x = einops.rearrange(x, "b (y i) (x j) c -> b y x (i j c)", i=stride, j=stride)
            x = layers.dense(x, getattr(self, f"stem{i}"), getattr(self, f"stem{i}_bias"))
        x = einops.rearrange(x, "b y x d -> b (y x) d")
        if self.config.positions == "learned":
            position = self.position[...]
        else:
            position = sincos2d(self.config.grid, self.config.width)
        x = x + jnp.asarray(position).astype(x.dtype)[None]
        if extra := self.config.extra_tokens:
            first = jnp.broadcast_to(
                self.extra[...].astype(x.dtype), (x.shape[0], extra, x.shape[2])
            )
            x = jnp.concatenate([first, x], axis=1)
        if self.config.depth:
            x, _ = layers.run_stack(
                self.blocks,
                lambda block, x, modulation: (block(x, backend, modulation), None),
                x,
                modulation,
                remat=remat,
                unroll=unroll,
            )
        x = x[:, self.config.extra_tokens :]
        if self.config.features == "penultimate":
            return x
        return layers.layer_norm(x, self.norm_scale[...], self.norm_bias[...])


def sincos2d(grid: int, width: int) -> Float[np.ndarray, "p d"]:
    """Fixed position table: sines and cosines of row and column, float32, octave frequencies."""
    rows, columns = np.mgrid[0:grid, 0:grid] / grid
    frequency = np.pi * 2.0 ** np.linspace(0, 5, width // 4)
    waves = [
        wave(einops.rearrange(place, "y x -> (y x) 1") * frequency[None])
        for place in (columns, rows)
        for wave in (np.sin, np.cos)
    ]
    return np.concatenate(waves, axis=1).astype(np.float32)
