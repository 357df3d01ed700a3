"""What an RT-1 is made of, and the released sizes."""

import dataclasses
from typing import Annotated, Literal

from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, Factor, Range, Size
from vla_jax.models import layers
from vla_jax.models.efficientnet import EfficientNetConfig, Stage

Few = Annotated[int, Range(1, 1024)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RT1Config(Checked):
    """What the model is made of; the defaults are RT-1's 35 million parameters.

    Attributes:
      vision: the network over images.
      context: size of an instruction's embedding; that of the Universal Sentence Encoder is 512.
      image_features: features of an image token.
      image_tokens: tokens of one frame, n.
      token_learner: whether they are learned means of the map of features; if not they are the map.
      action_tokens: tokens of one action, a.
      vocabulary: values that a token may have, v.
      frames: w, the last of which is acted on.
      width: residual width d of the transformer.
      depth: its layers.
      heads: attention heads.
      head_dim: size k of one head.
      feed_forward: one `linear` layer (RT-1) or a gated network, `swiglu` (RT-1-X).
      mlp: hidden size of the gated network.
      dropout: share that is zeroed of attention weights and of what feed-forward layers add.
      previous_actions: whether image tokens see the actions of earlier frames.
      autoregressive: whether an action's tokens see those before them; if not they are independent.
      dtype: dtype of the computation.
      param_dtype: dtype in which parameters are kept.
      remat: see `VLMConfig`; of the transformer.
      unroll: layers per loop iteration.
    """

    vision: EfficientNetConfig = EfficientNetConfig()
    context: Size = 512
    image_features: Size = 512
    image_tokens: Few = 8
    token_learner: bool = True
    action_tokens: Few = 11
    vocabulary: Size = 256
    frames: Few = 6
    width: Size = 512
    depth: Few = 8
    heads: Few = 8
    head_dim: Size = 128
    feed_forward: Literal["linear", "swiglu"] = "linear"
    mlp: Size = 512
    dropout: Factor = 0.1
    previous_actions: bool = False
    autoregressive: bool = False
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: layers.Remat = "none"
    unroll: Few = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.token_learner and self.image_tokens != self.vision.grid**2:
            raise UserError(
                "RT1Config.image_tokens without a token_learner",
                expected=f"{self.vision.grid**2}, the map of its vision",
                found=self.image_tokens,
            )

    @property
    def frame_tokens(self) -> int:
        """Tokens of one frame and its action."""
        return self.image_tokens + self.action_tokens

    @property
    def takes_actions(self) -> bool:
        """Whether actions go into the model; if not their slots are empty."""
        return self.previous_actions or self.autoregressive


RT1_35M = RT1Config()
RT1_X = RT1Config(image_tokens=81, vocabulary=512, frames=15, head_dim=256, feed_forward="swiglu")
# For tests and the tabletop: a map of 6 x 6 features of 48 pixels.
RT1_TINY = RT1Config(
    vision=EfficientNetConfig(
        image_size=48,
        width=1.0,
        depth=1.0,
        stages=(
            Stage(filters=16, expansion=1),
            Stage(filters=32, stride=2, expansion=4),
            Stage(filters=48, stride=2, expansion=4),
        ),
        stem=16,
        top=128,
        drop_connect=0.0,
    ),
    context=64,
    image_features=128,
    action_tokens=7,
    frames=2,
    width=128,
    depth=3,
    heads=4,
    head_dim=32,
    feed_forward="swiglu",
    mlp=192,
    dropout=0.0,
    dtype="float32",
    unroll=3,
)
