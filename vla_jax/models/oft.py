"""OpenVLA-OFT: a VLM that says a whole chunk of actions in one pass, as numbers.

Behind the prompt stand n x a slots without content and the stop token; everyone sees everyone; the
hidden states from which tokens would be predicted there go to a head. Sources:
openvla-oft:prismatic/extern/hf/modeling_prismatic.py, prismatic/models/film_vit_wrapper.py,
prismatic/models/projectors.py; transformers-openvla-oft:models/llama/modeling_llama.py (the mask).
Rows of text go through the same model as in any VLM, so that both may be in one batch.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import einops
import jax.numpy as jnp
from flax import nnx

from vla_jax.core.arrays import Array, Bool, Float, Int, UInt8
from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, Natural, Range
from vla_jax.models import attention, layers, variants
from vla_jax.models.action_heads import MLPResNet
from vla_jax.models.vit import Modulation, ViTConfig
from vla_jax.models.vlm import VLM, seen_tokens
from vla_jax.models.vlm_config import VLMConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class OFTConfig(Checked):
    """What a model is made of.

    Attributes:
      vlm: the model; its `state` is the number of dimensions of proprioception, 0 for none.
      chunk: time steps n of a chunk.
      dims: numbers a of an action.
      film: whether the prompt modulates every layer of the towers (OFT+).
      stop: id of the token behind the slots, the text's end.
    """

    vlm: VLMConfig = VLMConfig()
    chunk: Annotated[int, Range(1, 1024)] = 8
    dims: Annotated[int, Range(1, 1024)] = 7
    film: bool = False
    stop: Natural = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        towers = (self.vlm.vision, self.vlm.fused_vision)
        if self.film and any(tower is not None and not tower.depth for tower in towers):
            raise UserError("film", expected="a tower with layers", found="depth 0")

    @property
    def slots(self) -> int:
        """Slots of a chunk, one per number."""
        return self.chunk * self.dims


class _FilmBlock(nnx.Module):
    """What one layer is modulated by; zero at first, which changes nothing."""

    def __init__(self, features: int, width: int, init: layers.Initializer):
        self.scale = init.constant((features, width), ("patch", "embed"), 0)
        self.scale_bias = init.constant((width,), ("norm",), 0)
        self.shift = init.constant((features, width), ("patch", "embed"), 0)
        self.shift_bias = init.constant((width,), ("norm",), 0)

    def __call__(self, prompt: Float[Array, "b e"]) -> Modulation:
        return (
            layers.dense(prompt, self.scale, self.scale_bias),
            layers.dense(prompt, self.shift, self.shift_bias),
        )


class Film(nnx.Module):
    """A prompt's mean embedding -> what the layers of a tower are modulated by.

    The layer behind the features has parameters, too, as released files do.
    """

    def __init__(self, tower: ViTConfig, features: int, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.used = tower.depth - tower.unused
        stacked = layers.Initializer(rngs, dtype, tower.depth)
        self.blocks = _FilmBlock(features, tower.width, stacked)

    def __call__(self, prompt: Float[Array, "b e"], views: int) -> Modulation:
        """Returns scale and shift, [l, b views, d], of the layers that count."""
        _, (scale, shift) = layers.run_stack(self.blocks, lambda f, _, __: (None, f(prompt)), None)
        scale, shift = (jnp.repeat(x[: self.used], views, axis=1) for x in (scale, shift))
        return scale, shift


class OFT(VLM):
    """A VLM with slots for a chunk and a head that reads them.

    Args:
      config: sizes.
      vocabulary: number of token ids.
      rngs: key stream `params`.
    """

    state_activation = "gelu_exact"

    def __init__(self, config: OFTConfig, vocabulary: int, rngs: nnx.Rngs):
        vlm, dtype = config.vlm, jnp.dtype(config.vlm.param_dtype)
        super().__init__(vlm, vocabulary, rngs)
        self.oft = config
        width = vlm.decoder.width
        self.action_head = MLPResNet(config.dims * width, width, config.dims, rngs, dtype)
        if config.film:
            self.film = Film(vlm.vision, width, rngs, dtype)
            if vlm.fused_vision is not None:
                self.fused_film = Film(vlm.fused_vision, width, rngs, dtype)

    def states(
        self,
        images: UInt8[Array, "b w y x 3"],
        tokens: Int[Array, "b t"],
        prefix_length: Int[Array, " b"],
        prefix: int,
        *,
        is_robot: Bool[Array, " b"] | None = None,
        image_mask: Bool[Array, "b w"] | None = None,
        state: Float[Array, "b s"] | None = None,
        state_mask: Bool[Array, "b s"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Returns the hidden states behind the prompt.

        Args:
          images: 0..255.
          tokens: prompt slots, and the suffix slots of rows of text, if there are any.
          prefix_length: valid tokens of the prompt, at the right end of its slots.
          prefix: number of prompt slots (static).
          is_robot: rows that get slots for a chunk in place of a suffix and see everything; the
            others are text, as in `VLM.hidden`. None for all.
          image_mask: see `VLM.hidden`.
          state: see `VLM.hidden`.
          state_mask: see `VLM.hidden`.

        Returns:
          [b, n, d], state 0 that of the last token of the prompt: states 0 .. n a - 1 of a robot
          row are those of the chunk, one ahead of its slots (`actions` takes them); state i of a
          row of text predicts its suffix token i.
        """
        tokens, is_slot, is_fed = self._slotted(tokens, prefix, is_robot)
        dtype = jnp.dtype(self.config.dtype)
        text = self.decoder.embed(jnp.maximum(tokens, 0), dtype)
        text = jnp.where(is_slot[..., None], 0, text)
        backend = self.config.backend
        modulations = self._modulations(tokens, prefix_length, prefix, images.shape[1])
        x = self.encode(images, backend, modulations)
        seen = seen_tokens(x, images, image_mask)
        said = self._state(state, state_mask, dtype)
        x, valid, spans = self._arrange(x, seen, said, text, tokens, prefix_length, prefix)
        fed = is_fed.shape[1]
        valid = jnp.concatenate([valid[:, :-fed], valid[:, -fed:] & is_fed], axis=1)
        mask = attention.Mask(valid=valid, everyone=x.shape[1])
        if is_robot is not None:
            mask = dataclasses.replace(self._mask(valid, spans), full=is_robot)
        x, _ = self.decoder(
            x,
            attention.valid_positions(valid),
            mask,
            remat=self.config.remat,
            unroll=self.config.unroll,
            asking=fed + 1,
            backend=backend,
        )
        return x

    def actions(self, states: Float[Array, "b n d"]) -> Float[Array, "b n a"]:
        """Returns the normalised chunk that `states` say."""
        own = states[:, : self.oft.slots]
        own = einops.rearrange(own, "b (n a) d -> b n (a d)", n=self.oft.chunk)
        return self.action_head(own)

    def prompt(self, text: Float[Array, "b t d"], length: Int[Array, " b"]) -> Float[Array, "b d"]:
        """Returns the mean embedding of a prompt and the stop token, which modulates the towers."""
        stop = self.decoder.embed(jnp.full((len(text), 1), self.oft.stop), text.dtype)
        valid = jnp.arange(text.shape[1])[None] >= text.shape[1] - length[:, None]
        total = jnp.sum(jnp.where(valid[..., None], text, 0), axis=1) + stop[:, 0]
        return total / (length + 1).astype(text.dtype)[:, None]

    def _modulations(
        self, tokens: Int[Array, "b t"], prefix_length: Int[Array, " b"], prefix: int, views: int
    ) -> Sequence[Modulation | None]:
        if not self.oft.film:
            return None, None
        ids = jnp.maximum(tokens[:, :prefix], 0)
        prompt = self.prompt(self.decoder.embed(ids, jnp.dtype(self.config.dtype)), prefix_length)
        films = (self.film, *((self.fused_film,) if self.config.fused_vision else ()))
        return [film(prompt, views) for film in films]

    def _slotted(
        self, tokens: Int[Array, "b t"], prefix: int, is_robot: Bool[Array, " b"] | None
    ) -> tuple[Int[Array, "b t"], Bool[Array, "b t"], Bool[Array, "b f"]]:
        """Puts slots and stop token behind the prompts of robot rows.

        Returns:
          Tokens, where they are slots, and which of those behind the prompt are fed: all of text,
          as padding is behind what it predicts.
        """
        slots, rows = self.oft.slots, tokens.shape[0]
        # The last token of text is only predicted.
        fed = max(slots + 1, tokens.shape[1] - prefix - 1)
        if is_robot is None:
            is_robot = jnp.ones(rows, bool)
        robot, place = is_robot[:, None], jnp.arange(fed)[None]
        text = tokens[:, prefix : prefix + fed]
        text = jnp.pad(text, [(0, 0), (0, fed - text.shape[1])])
        suffix = jnp.where(robot, jnp.where(place == slots, self.oft.stop, 0), text)
        tokens = jnp.concatenate([tokens[:, :prefix], suffix], axis=1)
        is_slot = jnp.pad(robot & (place < slots), [(0, 0), (prefix, 0)])
        return tokens, is_slot, ~robot | (place <= slots)


_OPENVLA = variants.OPENVLA_7B
# As released for LIBERO and for ALOHA. The processor's constants are those of DINOv2 in bfloat16,
# and no file says another epsilon than LlamaConfig's own.
_OPENVLA = dataclasses.replace(
    _OPENVLA,
    vision=dataclasses.replace(
        _OPENVLA.vision,
        mean=(0.484375, 0.455078125, 0.40625),
        std=(0.228515625, 0.2236328125, 0.224609375),
    ),
    decoder=dataclasses.replace(_OPENVLA.decoder, norm_epsilon=1e-6),
)
OPENVLA_OFT_7B = OFTConfig(vlm=dataclasses.replace(_OPENVLA, state=8), chunk=8, dims=7)
OPENVLA_OFT_7B_ALOHA = OFTConfig(vlm=dataclasses.replace(_OPENVLA, state=14), chunk=25, dims=14)
