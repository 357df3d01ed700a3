"""The vision-language model: tower -> projector -> prefix-LM decoder over `[images | text]`.

Source: PaliGemma (big_vision:models/proj/paligemma/paligemma.py). Every size, the tabletop's
included, is this module with other numbers.
"""

import dataclasses
from typing import Literal

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from vla_jax.core.arrays import Array, Bool, Float, Int, UInt8
from vla_jax.models import attention, layers
from vla_jax.models.gemma import Gemma, GemmaConfig, KeyValue
from vla_jax.models.siglip import Siglip, SiglipConfig

Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VLMConfig:
    """What a model is made of.

    Attributes:
      vision: the tower.
      decoder: the language model.
      dtype: dtype of the computation.
      param_dtype: dtype in which parameters are kept.
      remat: what the backward pass recomputes.
      unroll: layers per loop iteration of both stacks.
    """

    vision: SiglipConfig = SiglipConfig()
    decoder: GemmaConfig = GemmaConfig()
    dtype: Dtype = "bfloat16"
    param_dtype: Dtype = "float32"
    remat: layers.Remat = "full"
    unroll: int = 1


class VLM(nnx.Module):
    """Images and text in, suffix logits out.

    Args:
      config: sizes.
      vocabulary: number of token ids.
      rngs: key stream `params`.
    """

    def __init__(self, config: VLMConfig, vocabulary: int, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.param_dtype)
        width = config.vision.width
        self.config = config
        self.vision = Siglip(config.vision, rngs, dtype)
        init = layers.Initializer(rngs, dtype)
        shape = (width, config.decoder.width)
        self.projector = init.normal(shape, ("patch", "embed"), width**-0.5)
        self.projector_bias = init.constant(shape[1:], ("norm",), 0)
        self.decoder = Gemma(config.decoder, vocabulary, rngs, dtype)

    def encode(self, images: UInt8[Array, "b w y x 3"]) -> Float[Array, "b p d"]:
        """Returns the image tokens of all views, uint8 0..255 mapped to [-1, 1] first."""
        pixels = images.astype(jnp.dtype(self.config.dtype)) / 127.5 - 1
        pixels = einops.rearrange(pixels, "b w y x c -> (b w) y x c")
        x = self.vision(pixels, remat=self.config.remat, unroll=self.config.unroll)
        x = layers.dense(x, self.projector, self.projector_bias)
        return einops.rearrange(x, "(b w) p d -> b (w p) d", w=images.shape[1])

    def _embed(
        self,
        images: UInt8[Array, "b w y x 3"],
        tokens: Int[Array, "b t"],
        prefix_length: Int[Array, " b"],
        prefix: int,
        image_mask: Bool[Array, "b w"] | None = None,
    ) -> tuple[Float[Array, "b s d"], Bool[Array, "b s"], int]:
        """Embeds images and text; also tells valid slots and the number of leading prefix slots."""
        x = self.encode(images)
        patches = x.shape[1]
        x = jnp.concatenate([x, self.decoder.embed(tokens, x.dtype)], axis=1)
        slot = jnp.arange(x.shape[1])[None, :]
        padding = (slot >= patches) & (slot < patches + prefix - prefix_length[:, None])
        if image_mask is not None:
            absent = jnp.repeat(~image_mask, patches // images.shape[1], axis=1)
            padding |= jnp.pad(absent, [(0, 0), (0, x.shape[1] - patches)])
        return x, ~padding, patches + prefix

    def hidden(
        self,
        images: UInt8[Array, "b w y x 3"],
        tokens: Int[Array, "b t"],
        prefix_length: Int[Array, " b"],
        prefix: int,
        image_mask: Bool[Array, "b w"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Returns the hidden states that predict the suffix, teacher-forced.

        Args:
          images: 0..255.
          tokens: prefix and suffix slots.
          prefix_length: valid prefix tokens, at the right end of the prefix slots.
          prefix: number of prefix slots (static).
          image_mask: False where a view is absent: nobody sees it, and it takes no position.

        Returns:
          [b, suffix slots, d]: state n predicts suffix token n, state 0 being that of the last
          prefix token.
        """
        x, valid, lead = self._embed(images, tokens[:, :-1], prefix_length, prefix, image_mask)
        positions = attention.valid_positions(valid)
        mask = attention.prefix_lm_mask(valid, lead)
        x, _ = self.decoder(
            x,
            positions,
            mask,
            remat=self.config.remat,
            unroll=self.config.unroll,
            asking=x.shape[1] - lead + 1,
        )
        return x

    def logits(
        self,
        images: UInt8[Array, "b w y x 3"],
        tokens: Int[Array, "b t"],
        prefix_length: Int[Array, " b"],
        prefix: int,
        image_mask: Bool[Array, "b w"] | None = None,
    ) -> Float[Array, "b n v"]:
        """Returns float32 logits of every suffix slot, teacher-forced; see `hidden`."""
        return self.decoder.logits(self.hidden(images, tokens, prefix_length, prefix, image_mask))

    def prefill(
        self,
        images: UInt8[Array, "b w y x 3"],
        tokens: Int[Array, "b t"],
        prefix_length: Int[Array, " b"],
        slots: int,
    ) -> tuple[Float[Array, "b 1 v"], "Cache"]:
        """Runs images and prefix once.

        Args:
          images: 0..255.
          tokens: prefix slots only.
          prefix_length: valid prefix tokens.
          slots: suffix tokens that may be fed later.

        Returns:
          Logits of the first suffix token, and the cache to `step` on.
        """
        x, valid, lead = self._embed(images, tokens, prefix_length, tokens.shape[1])
        positions = attention.valid_positions(valid)
        mask = attention.prefix_lm_mask(valid, lead)
        x, key_value = self.decoder(x, positions, mask, unroll=self.config.unroll, keep_cache=True)
        room = [(0, 0), (0, 0), (0, slots), (0, 0), (0, 0)]
        cache = Cache(
            key_value=jax.tree.map(lambda a: jnp.pad(a, room), key_value),
            valid=jnp.pad(valid, [(0, 0), (0, slots)]),
            position=positions[:, -1:],
            index=jnp.asarray(lead, jnp.int32),
        )
        return self.decoder.logits(x[:, -1:]), cache

    def step(self, token: Int[Array, "b 1"], cache: "Cache") -> tuple[Array, "Cache"]:
        """Feeds one suffix token; returns logits [b, 1, v] of the next, and the longer cache."""
        x = self.decoder.embed(token, jnp.dtype(self.config.dtype))
        slot = jnp.arange(cache.valid.shape[1])[None, :]
        valid = cache.valid | (slot == cache.index)
        position = cache.position + 1
        x, key_value = self.decoder.step(
            x,
            position,
            valid[:, None, None, :],
            cache.key_value,
            cache.index,
            unroll=self.config.unroll,
        )
        cache = Cache(key_value=key_value, valid=valid, position=position, index=cache.index + 1)
        return self.decoder.logits(x), cache


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
    """What decoding remembers.

    Attributes:
      key_value: keys and values, each [l, b, s, g, k].
      valid: bool [b, s], slots that may be attended to.
      position: int32 [b, 1], rotary position of the last token fed.
      index: int32 [], the slot of the next token.
    """

    key_value: KeyValue
    valid: Array
    position: Array
    index: Array


def logical_axes(model: nnx.Module) -> dict:
    """Returns the tree of logical axis names, one tuple per parameter, shaped like its state."""
    state = nnx.state(model)
    return nnx.to_pure_dict(
        jax.tree.map(
            lambda variable: variable.get_metadata("axes"),
            state,
            is_leaf=lambda leaf: isinstance(leaf, nnx.Variable),
        )
    )
