"""What a vision-language model is made of."""

import dataclasses
from typing import Annotated, Literal

from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, Range
from vla_jax.models import attention, layers
from vla_jax.models.attention import Backend
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.vit import ViTConfig

Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VLMConfig(Checked):
    """What a model is made of.

    Attributes:
      vision: the tower.
      fused_vision: a second tower over the same patches, whose features are joined to those of the
        first (OpenVLA); None for none.
      shuffle: side of the squares of patches whose features are joined into one image token
        (SmolVLM's pixel shuffle); 1 for none.
      projector: from features to the decoder's width: `linear` (PaliGemma), two layers `mlp2`
        (OpenVLA with one tower) or three `mlp3` (with two).
      decoder: the language model.
      attention: who sees whom: images and prefix each other and the suffix its past (`prefix_lm`),
        everyone the past (`causal`), or the past and all images (`image_only`).
      images: where image tokens stand: `first`, `after_bos` (OpenVLA), or `inline`: anywhere in the
        prefix, in place of tokens IMAGE_TOKEN (PaLM-E's multimodal sentences).
      state: dimensions of the proprioceptive state; it becomes one token behind the images, or in
        place of STATE_TOKEN where images are inline. 0 for none.
      dtype: dtype of the computation.
      param_dtype: dtype in which parameters are kept.
      remat: what the backward pass recomputes: `none`; `dots`, all but matrix products; `narrow`,
        those of hidden width too; `full`, everything; `auto`, the least that fits into the memory
        of a known chip, as it is estimated, and nothing on others.
      unroll: layers per loop iteration of the stacks.
      backend: what computes attention in training: `xla`, `cudnn` (GPU, bfloat16), `splash` (TPU),
        or `auto`, which chooses for each module, see `attention.choose`. Decoding takes XLA, so
        that a run opens anywhere.
    """

    vision: ViTConfig = ViTConfig()
    fused_vision: ViTConfig | None = None
    shuffle: Annotated[int, Range(1, 1024)] = 1
    projector: Literal["linear", "mlp2", "mlp3"] = "linear"
    decoder: DecoderConfig = DecoderConfig()
    attention: Literal["prefix_lm", "causal", "image_only"] = "prefix_lm"
    images: Literal["first", "after_bos", "inline"] = "first"
    state: Annotated[int, Range(0, 4096)] = 0
    dtype: Dtype = "bfloat16"
    param_dtype: Dtype = "float32"
    remat: layers.Remat = "full"
    unroll: Annotated[int, Range(1, 1024)] = 1
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention == "image_only" and self.images != "first":
            raise UserError(
                "config.model.images",
                expected="first, for attention=image_only",
                found=self.images,
            )
        if self.vision.grid % self.shuffle:
            raise UserError(
                "config.model.shuffle",
                expected=f"a divisor of {self.vision.grid} patches per side",
                found=self.shuffle,
            )
        fused = self.fused_vision
        same = fused is None or (fused.image_size, fused.patches) == (
            self.vision.image_size,
            self.vision.patches,
        )
        if not same:
            raise UserError(
                "config.model.fused_vision",
                expected="image_size and number of patches of config.model.vision",
                found=f"{fused.image_size} and {fused.patches}" if fused else "none",
            )
        if self.backend == "cudnn":
            self._check_cudnn()

    def _check_cudnn(self) -> None:
        """Refuses what cuDNN's attention lacks, by module."""
        modules: list[tuple[str, int, float | None]] = [
            (name, tower.width // tower.heads, None)
            for name, tower in (("vision", self.vision), ("fused_vision", self.fused_vision))
            if tower is not None and tower.depth
        ]
        decoder = self.decoder
        modules.append(("decoder", decoder.head_dim, decoder.attention_softcap))
        found = [
            f"config.model.{name} with {reason}"
            for name, head, softcap in modules
            for reason in attention.cudnn_lacks(self.dtype, head, softcap)
        ]
        if found:
            raise UserError(
                "config.model.backend=cudnn",
                expected=f"bfloat16, no attention_softcap, heads of up to {attention.CUDNN_HEADS}",
                found=", ".join(found),
                fix="Choose auto: it takes cuDNN where it can, and XLA for the rest",
            )

    @property
    def image_tokens(self) -> int:
        """Image tokens of one view."""
        return self.vision.patches // self.shuffle**2
