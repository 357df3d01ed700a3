"""FiLM-EfficientNet: images and an instruction's embedding -> a map of features.

Sources: Tan and Le 2019 (EfficientNet, table 1), Perez et al. 2018 (FiLM),
open_x_embodiment:models/efficientnet.py and film_conditioning.py (RT-1's: FiLM behind every block).
The defaults are B3. A convolution over one pixel is a matrix, and is kept as one.
"""

import dataclasses
import math
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from vla_jax.core.arrays import Array, Float
from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, Factor, Positive, Range, Share, Size
from vla_jax.models import layers

Small = Annotated[int, Range(1, 1024)]
# Of ImageNet, for channels in 0..1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Checked):
    """Blocks of one width, before the coefficients of width and depth.

    Attributes:
      filters: width of what they return.
      repeats: how many there are.
      window: side of the depthwise convolution, pixels.
      stride: of the first block; the others keep the resolution.
      expansion: hidden width of a block as a multiple of that of its input; 1 expands nothing.
    """

    filters: Size
    repeats: Small = 1
    window: Small = 3
    stride: Small = 1
    expansion: Small = 6


STAGES = (
    Stage(filters=16, expansion=1),
    Stage(filters=24, repeats=2, stride=2),
    Stage(filters=40, repeats=2, window=5, stride=2),
    Stage(filters=80, repeats=3, stride=2),
    Stage(filters=112, repeats=3, window=5),
    Stage(filters=192, repeats=4, window=5, stride=2),
    Stage(filters=320),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfficientNetConfig(Checked):
    """Sizes of the network; the defaults are B3.

    Attributes:
      image_size: height and width of the input, pixels.
      width: coefficient of every number of filters.
      depth: coefficient of every number of repeats.
      stages: the blocks.
      stem: filters of the first convolution.
      top: filters of the last one.
      divisor: numbers of filters are rounded to its multiples.
      squeeze: hidden width of squeeze-and-excite as a share of the width of a block's input.
      drop_connect: how often the last block would be left out in training; earlier ones less often,
        in proportion to their number. 0 draws nothing.
      norm_momentum: what is kept, at each step, of the running statistics of BatchNorm.
      norm_epsilon: added to the variance there.
    """

    image_size: Annotated[int, Range(1, 4096)] = 300
    width: Positive = 1.2
    depth: Positive = 1.4
    stages: tuple[Stage, ...] = STAGES
    stem: Size = 32
    top: Size = 1280
    divisor: Small = 8
    squeeze: Share = 0.25
    drop_connect: Factor = 0.2
    norm_momentum: Share = 0.99
    norm_epsilon: Positive = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stages:
            raise UserError("EfficientNetConfig.stages", expected="at least one", found="none")

    def filters(self, base: int) -> int:
        """Returns a number of filters at this width: rounded, but never down by over a tenth."""
        wanted, step = base * self.width, self.divisor
        rounded = max(step, int(wanted + step / 2) // step * step)
        return rounded + step if rounded < 0.9 * wanted else rounded

    @property
    def blocks(self) -> tuple[Stage, ...]:
        """Every block as a stage of its own, at this width and depth."""
        return tuple(
            dataclasses.replace(
                stage,
                filters=self.filters(stage.filters),
                repeats=1,
                stride=1 if number else stage.stride,
            )
            for stage in self.stages
            for number in range(math.ceil(self.depth * stage.repeats))
        )

    @property
    def grid(self) -> int:
        """Side of the map of features."""
        side = -(-self.image_size // 2)
        for stage in self.stages:
            side = -(-side // stage.stride)
        return side


class BatchNorm(nnx.Module):
    """Normalises each feature over examples and pixels, in float32.

    The running statistics are `nnx.BatchStat`: no gradient reaches them, and a call with
    `train=True` replaces them in the module. Whoever splits the module keeps them.
    """

    def __init__(self, width: int, config: EfficientNetConfig, init: layers.Initializer):
        self.momentum, self.epsilon = config.norm_momentum, config.norm_epsilon
        self.scale = init.constant((width,), ("norm",), 1)
        self.bias = init.constant((width,), ("norm",), 0)
        self.mean = nnx.BatchStat(jnp.zeros((width,), jnp.float32), axes=("norm",))
        self.variance = nnx.BatchStat(jnp.ones((width,), jnp.float32), axes=("norm",))

    def __call__(self, x: Float[Array, "b y x d"], train: bool) -> Float[Array, "b y x d"]:
        """Normalises by the statistics of this batch in training, by the running ones otherwise."""
        y = x.astype(jnp.float32)
        mean, variance = self.mean[...], self.variance[...]
        if train:
            new = jnp.mean(y, (0, 1, 2))
            spread = jnp.mean(jnp.square(y - new[None, None, None]), (0, 1, 2))
            keep = self.momentum
            self.mean[...] = keep * mean + (1 - keep) * new
            self.variance[...] = keep * variance + (1 - keep) * spread
            mean, variance = new, spread
        factor = jax.lax.rsqrt(variance + self.epsilon) * self.scale[...].astype(jnp.float32)
        bias = self.bias[...].astype(jnp.float32)
        y = (y - mean[None, None, None]) * factor[None, None, None] + bias[None, None, None]
        return y.astype(x.dtype)


class Film(nnx.Module):
    """Scales and shifts features as an instruction says; starts as the identity."""

    def __init__(self, context: int, width: int, init: layers.Initializer):
        self.shift = init.constant((context, width), ("context", "embed"), 0)
        self.shift_bias = init.constant((width,), ("norm",), 0)
        self.scale = init.constant((context, width), ("context", "embed"), 0)
        self.scale_bias = init.constant((width,), ("norm",), 0)

    def __call__(
        self, x: Float[Array, "b y x d"], context: Float[Array, "b c"]
    ) -> Float[Array, "b y x d"]:
        """Returns (1 + scale) x + shift, each a linear function of the context."""
        shift = layers.dense(context, self.shift, self.shift_bias)[:, None, None]
        scale = layers.dense(context, self.scale, self.scale_bias)[:, None, None]
        return (1 + scale) * x + shift


class MBConv(nnx.Module):
    """Expands, convolves every feature by itself, weighs features, and projects back.

    Args:
      width: of the input.
      block: what it is like; `filters` is the width of the output.
      config: of the network.
      init: makes parameters.
    """

    def __init__(
        self, width: int, block: Stage, config: EfficientNetConfig, init: layers.Initializer
    ):
        hidden = width * block.expansion
        narrow = max(1, int(width * config.squeeze))
        self.block, self.adds = block, block.stride == 1 and width == block.filters
        if block.expansion != 1:
            self.expand = _matrix(init, (width, hidden), ("embed", "mlp"))
            self.expand_norm = BatchNorm(hidden, config, init)
        shape = (block.window, block.window, hidden)
        self.depthwise = init.normal(shape, ("window", "window", "mlp"), 2**0.5 / block.window)
        self.depthwise_norm = BatchNorm(hidden, config, init)
        self.squeeze = _matrix(init, (hidden, narrow), ("mlp", "squeezed"))
        self.squeeze_bias = init.constant((narrow,), ("norm",), 0)
        self.excite = _matrix(init, (narrow, hidden), ("squeezed", "mlp"))
        self.excite_bias = init.constant((hidden,), ("mlp",), 0)
        self.project = _matrix(init, (hidden, block.filters), ("mlp", "embed"))
        self.project_norm = BatchNorm(block.filters, config, init)

    def __call__(
        self, x: Float[Array, "b y x d"], train: bool, rate: float, key: Array | None
    ) -> Float[Array, "b h w o"]:
        """Returns features, with the input added where they are alike.

        Args:
          x: features.
          train: see `BatchNorm`.
          rate: how often an example goes past the block.
          key: draws which; None for none.
        """
        y = x
        if self.block.expansion != 1:
            y = jax.nn.silu(self.expand_norm(layers.dense(y, self.expand), train))
        y = convolve(y, self.depthwise[...][:, :, None], self.block.stride, y.shape[-1])
        y = jax.nn.silu(self.depthwise_norm(y, train))
        pooled = jnp.mean(y, (1, 2), keepdims=True)
        pooled = jax.nn.silu(layers.dense(pooled, self.squeeze, self.squeeze_bias))
        y = y * jax.nn.sigmoid(layers.dense(pooled, self.excite, self.excite_bias))
        y = self.project_norm(layers.dense(y, self.project), train)
        return x + layers.drop(y, rate, key, (x.shape[0], 1, 1, 1)) if self.adds else y


class FilmEfficientNet(nnx.Module):
    """Normalised images and contexts -> features.

    Args:
      config: sizes.
      context: size of an instruction's embedding.
      init: makes parameters.
    """

    def __init__(self, config: EfficientNetConfig, context: int, init: layers.Initializer):
        self.config = config
        width = config.filters(config.stem)
        std = (2 / (9 * width)) ** 0.5
        self.stem = init.normal((3, 3, 3, width), ("window", "window", None, "embed"), std)
        self.stem_norm = BatchNorm(width, config, init)
        for number, block in enumerate(config.blocks):
            setattr(self, f"block{number}", MBConv(width, block, config, init))
            setattr(self, f"film{number}", Film(context, block.filters, init))
            width = block.filters
        top = config.filters(config.top)
        self.top = _matrix(init, (width, top), ("embed", "mlp"))
        self.top_norm = BatchNorm(top, config, init)

    def normalize(self, images: Float[Array, "b y x 3"]) -> Float[Array, "b y x 3"]:
        """Returns images of 0..255 as the network was trained on them, float32."""
        mean, std = (jnp.asarray(v, jnp.float32)[None, None, None] for v in (MEAN, STD))
        return (images.astype(jnp.float32) / 255 - mean) / std

    def __call__(
        self,
        images: Float[Array, "b y x 3"],
        context: Float[Array, "b c"],
        *,
        train: bool = False,
        key: Array | None = None,
    ) -> Float[Array, "b h w d"]:
        """Returns features.

        Args:
          images: normalised, in the dtype of the computation.
          context: of each image, in the same dtype.
          train: whether BatchNorm takes the statistics of this batch, and updates its own.
          key: draws which blocks each example goes past; None for none.
        """
        x = jax.nn.silu(self.stem_norm(convolve(images, self.stem[...], 2), train))
        blocks = self.config.blocks
        keys = [None] * len(blocks) if key is None else list(jax.random.split(key, len(blocks)))
        for number in range(len(blocks)):
            rate = self.config.drop_connect * number / len(blocks)
            x = getattr(self, f"block{number}")(x, train, rate, keys[number])
            x = getattr(self, f"film{number}")(x, context)
        return jax.nn.silu(self.top_norm(layers.dense(x, self.top), train))


def convolve(
    x: Float[Array, "b y x d"], kernel: Float[Array, "i j c o"], stride: int, groups: int = 1
) -> Float[Array, "b h w o"]:
    """Convolves in the dtype of `x`; edges are padded so that every `stride`th pixel counts."""
    return jax.lax.conv_general_dilated(
        jnp.asarray(x),
        jnp.asarray(kernel, x.dtype),
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _matrix(init: layers.Initializer, shape: tuple[int, int], axes: tuple[str, str]) -> nnx.Param:
    return init.normal(shape, axes, (2 / shape[1]) ** 0.5)
