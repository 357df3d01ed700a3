"""The vision-language model: tower(s) -> projector -> decoder over `[images | text]`.

Sources: PaliGemma (big_vision:models/proj/paligemma/paligemma.py), OpenVLA
(openvla:prismatic/extern/hf/modeling_prismatic.py), PaLM-E (section 3, multimodal sentences).
Every size, the tabletop's included, is this module with other values.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from vla_jax.core.arrays import Array, Bool, Float, Int, UInt8
from vla_jax.core.batch import IMAGE_TOKEN, STATE_TOKEN
from vla_jax.core.errors import UserError
from vla_jax.models import attention, layers
from vla_jax.models.attention import Backend
from vla_jax.models.decoder import Decoder, KeyValue
from vla_jax.models.projector import Projector, StateProjector
from vla_jax.models.vit import Modulation, ViT
from vla_jax.models.vlm_config import VLMConfig


class VLM(nnx.Module):
    """Images and text in, suffix logits out.

    `OFT` (oft.py) is a VLM with an action head, which calls what has an underscore here.

    Args:
      config: sizes.
      vocabulary: number of token ids.
      rngs: key stream `params`.
    """

    state_activation: layers.Activation = "gelu"

    def __init__(self, config: VLMConfig, vocabulary: int, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.param_dtype)
        self.config = config
        self.vision = ViT(config.vision, rngs, dtype)
        features = config.vision.width
        if config.fused_vision is not None:
            self.fused_vision = ViT(config.fused_vision, rngs, dtype)
            features += config.fused_vision.width
        features *= config.shuffle**2
        init = layers.Initializer(rngs, dtype)
        self.projector = Projector(config.projector, features, config.decoder.width, init)
        if config.state:
            self.state = StateProjector(
                config.state, config.decoder.width, init, self.state_activation
            )
        self.decoder = Decoder(config.decoder, vocabulary, rngs, dtype)

    def features(
        self,
        images: UInt8[Array, "n y x 3"],
        backend: Backend = "xla",
        modulations: Sequence[Modulation | None] = (None, None),
    ) -> Float[Array, "n p d"]:
        """Returns what the tower(s) say of single images, 0..255, each modulated on its own."""
        parts = []
        towers = (self.vision, *((self.fused_vision,) if self.config.fused_vision else ()))
        for tower, modulation in zip(towers, modulations, strict=False):
            pixels = tower.normalize(images.astype(jnp.dtype(self.config.dtype)))
            options = {"remat": self.config.remat, "unroll": self.config.unroll}
            parts.append(tower(pixels, **options, backend=backend, modulation=modulation))
        x = jnp.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        side = self.config.shuffle
        if side == 1:
            return x
        rows = self.config.vision.grid // side
        return einops.rearrange(
            x, "n (y i x j) d -> n (y x) (i j d)", y=rows, x=rows, i=side, j=side
        )

    def encode(
        self,
        images: UInt8[Array, "b w y x 3"],
        backend: Backend = "xla",
        modulations: Sequence[Modulation | None] = (None, None),
    ) -> Float[Array, "b p d"]:
        """Returns the image tokens of all views."""
        single = einops.rearrange(images, "b w y x c -> (b w) y x c")
        x = self.features(single, backend, modulations)
        return einops.rearrange(self.projector(x), "(b w) p d -> b (w p) d", w=images.shape[1])

    def _embed(
        self,
        images: UInt8[Array, "b w y x 3"],
        tokens: Int[Array, "b t"],
        prefix_length: Int[Array, " b"],
        prefix: int,
        image_mask: Bool[Array, "b w"] | None,
        state: Float[Array, "b s"] | None,
        state_mask: Bool[Array, "b s"] | None,
        backend: Backend = "xla",
    ) -> tuple[Float[Array, "b s d"], Bool[Array, "b s"], "_Spans"]:
        """Embeds images, state and text, see `_arrange`."""
        modulations = self._modulations(tokens, prefix_length, prefix, images.shape[1])
        x = self.encode(images, backend, modulations)
        seen = seen_tokens(x, images, image_mask)
        said = self._state(state, state_mask, x.dtype)
        text = self.decoder.embed(jnp.maximum(tokens, 0), x.dtype)
        return self._arrange(x, seen, said, text, tokens, prefix_length, prefix)

    def _modulations(
        self, tokens: Int[Array, "b t"], prefix_length: Int[Array, " b"], prefix: int, views: int
    ) -> Sequence[Modulation | None]:
        """Returns what a prompt does to each tower; here nothing."""
        return None, None

    def _arrange(
        self,
        x: Float[Array, "b p d"],
        seen: Bool[Array, "b p"],
        said: tuple[Float[Array, "b 1 d"], Bool[Array, "b 1"]] | None,
        text: Float[Array, "b t d"],
        tokens: Int[Array, "b t"],
        prefix_length: Int[Array, " b"],
        prefix: int,
    ) -> tuple[Float[Array, "b s d"], Bool[Array, "b s"], "_Spans"]:
        """Puts image tokens, state and embedded text in order.

        Returns:
          The sequence, its valid slots, and how far each part goes.
        """
        slot = jnp.arange(tokens.shape[1])[None, :]
        written = slot >= prefix - prefix_length[:, None]
        if self.config.images == "inline":
            text, written = _replace(text, written, tokens, IMAGE_TOKEN, x, seen)
            if said is not None:
                text, written = _replace(text, written, tokens, STATE_TOKEN, *said)
            return text, written, _Spans(images=0, prefix=prefix)
        parts: list[tuple[Array, Array]] = [(x, seen)]
        if said is not None:
            parts.append(said)
        if self.config.images == "after_bos":
            bos = slot == prefix - prefix_length[:, None]
            first = jnp.sum(jnp.where(bos[..., None], text, 0), axis=1, keepdims=True)
            parts.insert(0, (first, jnp.ones_like(written[:, :1])))
            written &= ~bos
        lead = sum(part.shape[1] for part, _ in parts)
        x, valid = (jnp.concatenate(p, axis=1) for p in zip(*parts, (text, written), strict=True))
        return x, valid, _Spans(images=lead, prefix=lead + prefix)

    def _state(
        self, state: Array | None, mask: Array | None, dtype: jnp.dtype
    ) -> tuple[Float[Array, "b 1 d"], Bool[Array, "b 1"]] | None:
        """Returns the state's token and where there is one; None for a model without."""
        if not self.config.state:
            return None
        if state is None or state.shape[1] != self.config.state:
            raise UserError(
                "state",
                expected=f"{self.config.state} numbers (config.model.state)",
                found="none" if state is None else f"{state.shape[1]}",
            )
        if mask is None:
            mask = jnp.ones(state.shape, bool)
        token = self.state(jnp.where(mask, state, 0).astype(dtype))
        return token, jnp.any(mask, axis=1, keepdims=True)

    def _mask(self, valid: Bool[Array, "b s"], spans: "_Spans") -> attention.Mask:
        """Returns who sees whom."""
        everyone = {"prefix_lm": spans.prefix, "causal": 0, "image_only": spans.images}
        return attention.Mask(valid=valid, everyone=everyone[self.config.attention])

    def hidden(
        self,
        images: UInt8[Array, "b w y x 3"],
        tokens: Int[Array, "b t"],
        prefix_length: Int[Array, " b"],
        prefix: int,
        image_mask: Bool[Array, "b w"] | None = None,
        state: Float[Array, "b s"] | None = None,
        state_mask: Bool[Array, "b s"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Returns the hidden states that predict the suffix, teacher-forced.

        Args:
          images: 0..255.
          tokens: prefix and suffix slots.
          prefix_length: valid prefix tokens, at the right end of the prefix slots; `<bos>` and
            one more at least where images stand behind it.
          prefix: number of prefix slots (static).
          image_mask: False where a view is absent: nobody sees it, and it takes no position.
          state: proprioception in [-1, 1], for a model that takes it.
          state_mask: False where a robot has no such dimension, or an example no state at all.

        Returns:
          [b, suffix slots, d]: state n predicts suffix token n, state 0 being that of the last
          prefix token.

        Raises:
          UserError: the state is missing or of another size.
        """
        backend = self.config.backend
        x, valid, spans = self._embed(
            images, tokens[:, :-1], prefix_length, prefix, image_mask, state, state_mask, backend
        )
        x, _ = self.decoder(
            x,
            attention.valid_positions(valid),
            self._mask(valid, spans),
            remat=self.config.remat,
            unroll=self.config.unroll,
            asking=x.shape[1] - spans.prefix + 1,
            backend=backend,
        )
        return x

    def logits(self, *inputs: Any, **named: Any) -> Float[Array, "b n v"]:
        """Returns float32 logits of every suffix slot, teacher-forced; takes what `hidden` does."""
        return self.decoder.logits(self.hidden(*inputs, **named))

    def prefill(
        self,
        images: UInt8[Array, "b w y x 3"],
        tokens: Int[Array, "b t"],
        prefix_length: Int[Array, " b"],
        slots: int,
        image_mask: Bool[Array, "b w"] | None = None,
        state: Float[Array, "b s"] | None = None,
        state_mask: Bool[Array, "b s"] | None = None,
    ) -> tuple[Float[Array, "b 1 v"], "Cache"]:
        """Runs images, state and prefix once.

        Args:
          images: 0..255.
          tokens: prefix slots only.
          prefix_length: valid prefix tokens.
          slots: suffix tokens that may be fed later.
          image_mask: see `hidden`.
          state: see `hidden`.
          state_mask: see `hidden`.

        Returns:
          Logits of the first suffix token, and the cache to `step` on.
        """
        x, valid, spans = self._embed(
            images, tokens, prefix_length, tokens.shape[1], image_mask, state, state_mask
        )
        positions = attention.valid_positions(valid)
        mask = self._mask(valid, spans)
        x, key_value = self.decoder(x, positions, mask, unroll=self.config.unroll, keep_cache=True)
        room = [(0, 0), (0, 0), (0, slots), (0, 0), (0, 0)]
        cache = Cache(
            key_value=jax.tree.map(lambda a: jnp.pad(a, room), key_value),
            valid=jnp.pad(valid, [(0, 0), (0, slots)]),
            position=positions[:, -1:],
            index=jnp.asarray(spans.prefix, jnp.int32),
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
            attention.Mask(valid=valid, everyone=valid.shape[1]),
            cache.key_value,
            cache.index,
            unroll=self.config.unroll,
        )
        cache = Cache(key_value=key_value, valid=valid, position=position, index=cache.index + 1)
        return self.decoder.logits(x), cache


def seen_tokens(
    x: Float[Array, "b p d"], images: UInt8[Array, "b w y x 3"], mask: Bool[Array, "b w"] | None
) -> Bool[Array, "b p"]:
    """Returns which image tokens are of views that are there."""
    if mask is None:
        mask = jnp.ones(images.shape[:2], bool)
    return jnp.repeat(mask, x.shape[1] // images.shape[1], axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Spans:
    """Where parts of the sequence end: its leading images (and state), and images with prefix."""

    images: int
    prefix: int


def _replace(
    x: Float[Array, "b t d"],
    valid: Bool[Array, "b t"],
    tokens: Int[Array, "b t"],
    token: int,
    embeddings: Float[Array, "b n d"],
    present: Bool[Array, "b n"],
) -> tuple[Float[Array, "b t d"], Bool[Array, "b t"]]:
    """Puts the n-th embedding in place of the n-th occurrence of `token`; absent ones are padding.

    Occurrences beyond n are padding too.
    """
    hit = tokens == token
    order = jnp.cumsum(hit, axis=1) - 1
    index = jnp.clip(order, 0, embeddings.shape[1] - 1)
    found = jnp.take_along_axis(embeddings, index[..., None], axis=1)
    there = jnp.take_along_axis(present, index, axis=1) & (order < embeddings.shape[1])
    return jnp.where(hit[..., None], found, x), valid & (~hit | there)


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
