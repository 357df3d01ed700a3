"""RT-1: a few frames and an instruction's embedding -> tokens of actions.

Every frame becomes a few image tokens (`FilmEfficientNet`, `TokenLearner`), behind which stand the
slots of its action; a transformer over all frames says in the place before a slot what it holds.
Sources: Brohan et al. 2022; open_x_embodiment:models/rt1.py, whose masks and numbers these are.
RT-1 has one linear layer in place of the feed-forward network, RT-1-X a gated one.
"""

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vla_jax.core.arrays import Array, Bool, Float, Int
from vla_jax.models import kernels, layers
from vla_jax.models.efficientnet import Film, FilmEfficientNet
from vla_jax.models.rt1_config import RT1Config
from vla_jax.models.token_learner import TokenLearner
from vla_jax.runtime import sharding


def mask(config: RT1Config) -> Bool[np.ndarray, "s s"]:
    """Returns True where a query, a row, may see a key.

    All see their past, image tokens in whole; the slots of actions are seen by none, but for those
    of the same action where `autoregressive`, and by later image tokens where `previous_actions`.
    """
    index = np.arange(config.frames * config.frame_tokens)
    frame, place = np.divmod(index, config.frame_tokens)
    acts = place >= config.image_tokens
    same_action = frame[:, None] == frame[None]
    by_actions = same_action if config.autoregressive else np.zeros_like(same_action)
    seen = np.where(acts[:, None], by_actions, config.previous_actions)
    return (index[:, None] >= index[None]) & (seen | ~acts[None])


class Block(nnx.Module):
    """One layer; parameters carry the leading `layers` axis when `init` stacks."""

    def __init__(self, config: RT1Config, init: layers.Initializer):
        d, h, k, m = config.width, config.heads, config.head_dim, config.mlp
        self.config = config
        self.attention_norm_scale = init.constant((d,), ("norm",), 1)
        self.attention_norm_bias = init.constant((d,), ("norm",), 0)
        self.query = init.normal((d, h, k), ("embed", "heads", "head_dim"), d**-0.5)
        self.query_bias = init.constant((h, k), ("heads", "head_dim"), 0)
        self.key = init.normal((d, h, k), ("embed", "heads", "head_dim"), d**-0.5)
        self.key_bias = init.constant((h, k), ("heads", "head_dim"), 0)
        self.value = init.normal((d, h, k), ("embed", "heads", "head_dim"), d**-0.5)
        self.value_bias = init.constant((h, k), ("heads", "head_dim"), 0)
        self.out = init.normal((h, k, d), ("heads", "head_dim", "embed"), (h * k) ** -0.5)
        self.out_bias = init.constant((d,), ("norm",), 0)
        self.mlp_norm_scale = init.constant((d,), ("norm",), 1)
        self.mlp_norm_bias = init.constant((d,), ("norm",), 0)
        if config.feed_forward == "swiglu":
            self.gate = init.normal((d, m), ("embed", "mlp"), d**-0.5)
            self.up = init.normal((d, m), ("embed", "mlp"), d**-0.5)
            self.down = init.normal((m, d), ("mlp", "embed"), m**-0.5)
        else:
            self.down = init.normal((d, d), ("mlp", "embed"), d**-0.5)

    def __call__(self, x: Float[Array, "b s d"], key: Array | None) -> Float[Array, "b s d"]:
        """Adds attention and feed-forward to the residual stream; `key` draws the dropout."""
        keys = (None, None) if key is None else jax.random.split(key)
        y = layers.layer_norm(x, self.attention_norm_scale[...], self.attention_norm_bias[...])
        x = x + self._attend(y, keys[0])
        y = layers.layer_norm(x, self.mlp_norm_scale[...], self.mlp_norm_bias[...])
        if self.config.feed_forward == "swiglu":
            y = jax.nn.silu(layers.dense(y, self.gate)) * layers.dense(y, self.up)
        return x + layers.drop(layers.dense(y, self.down), self.config.dropout, keys[1])

    def _attend(self, x: Float[Array, "b s d"], key: Array | None) -> Float[Array, "b s d"]:
        """Attends by RT-1's own mask, which no kernel knows, with dropout of weights."""
        table = jnp.asarray(mask(self.config))[None, None]
        query = layers.heads(x, self.query, self.query_bias) * self.config.head_dim**-0.5
        keys = layers.heads(x, self.key, self.key_bias)
        value = layers.heads(x, self.value, self.value_bias)
        logits = jnp.einsum("bqhk,bshk->bhqs", query, keys, preferred_element_type=jnp.float32)
        logits = jnp.where(table, logits, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits, axis=-1).astype(x.dtype)
        # One draw for all examples and heads, as in Flax.
        weights = layers.drop(weights, self.config.dropout, key, table.shape)
        y = jnp.einsum("bhqs,bshk->bqhk", weights, value)
        y = layers.product("bqhk,hkd->bqd", y, self.out)
        return y + self.out_bias[...].astype(x.dtype)[None, None]


class RT1(nnx.Module):
    """Frames and instructions -> logits of action tokens."""

    def __init__(self, config: RT1Config, rngs: nnx.Rngs):
        init = layers.Initializer(rngs, jnp.dtype(config.param_dtype))
        f, d, v = config.image_features, config.width, config.vocabulary
        self.config = config
        self.vision = FilmEfficientNet(config.vision, config.context, init)
        top = config.vision.filters(config.vision.top)
        self.reduce = init.normal((top, f), ("mlp", "embed"), top**-0.5)
        self.film = Film(config.context, f, init)
        if config.token_learner:
            self.token_learner = TokenLearner(f, config.image_tokens, init)
        if config.takes_actions:
            self.action_embedding = init.normal((v, f), ("vocab", "embed"), v**-0.5)
            self.action_bias = init.constant((f,), ("norm",), 0)
        self.input = init.normal((f, d), ("mlp", "embed"), f**-0.5)
        self.input_bias = init.constant((d,), ("norm",), 0)
        slots = config.frames * config.frame_tokens
        self.position = init.normal((slots, d), ("position", "embed"), slots**-0.5)
        self.position_bias = init.constant((d,), ("norm",), 0)
        stacked = layers.Initializer(rngs, jnp.dtype(config.param_dtype), config.depth)
        self.blocks = Block(config, stacked)
        self.head = init.normal((v, d), ("vocab", "embed"), d**-0.5)
        self.head_bias = init.constant((v,), ("vocab",), 0)

    def __call__(
        self,
        images: Float[Array, "b w y x 3"],
        context: Float[Array, "b w c"],
        actions: Int[Array, "b w a"] | None = None,
        *,
        train: bool = False,
        key: Array | None = None,
    ) -> Float[Array, "b w a v"]:
        """Returns float32 logits of the actions of all frames.

        Args:
          images: of 0..255, of any dtype.
          context: the instruction's embedding, of each frame.
          actions: tokens that the model is given, where it `takes_actions`.
          train: whether BatchNorm takes the statistics of this batch and updates its own.
          key: draws dropout; None for none.
        """
        keys = (None, None) if key is None else jax.random.split(key)
        tokens = self.encode(images, context, train=train, key=keys[0])
        return self.logits(self.asking(self.hidden(tokens, actions, key=keys[1])))

    def encode(
        self,
        images: Float[Array, "b w y x 3"],
        context: Float[Array, "b w c"],
        *,
        train: bool = False,
        key: Array | None = None,
    ) -> Float[Array, "b w n f"]:
        """Returns the image tokens of each frame; see `__call__`."""
        x = self.learn(self.features(images, context, train=train, key=key))
        return einops.rearrange(x, "(b w) n f -> b w n f", w=images.shape[1])

    def features(
        self,
        images: Float[Array, "b w y x 3"],
        context: Float[Array, "b w c"],
        *,
        train: bool = False,
        key: Array | None = None,
    ) -> Float[Array, "bw h w f"]:
        """Returns the map of features of each frame, all frames of all examples in a row."""
        dtype = jnp.dtype(self.config.dtype)
        flat = einops.rearrange(context, "b w c -> (b w) c").astype(dtype)
        pixels = self.vision.normalize(einops.rearrange(images, "b w y x c -> (b w) y x c"))
        x = self.vision(pixels.astype(dtype), flat, train=train, key=key)
        return self.film(layers.dense(x, self.reduce), flat)

    def learn(self, features: Float[Array, "b h w f"]) -> Float[Array, "b n f"]:
        """Returns the tokens of maps of features: learned means of them, or the maps themselves."""
        x = einops.rearrange(features, "b h w f -> b (h w) f")
        return self.token_learner(x) if self.config.token_learner else x

    def hidden(
        self,
        image_tokens: Float[Array, "b w n f"],
        actions: Int[Array, "b w a"] | None = None,
        *,
        key: Array | None = None,
    ) -> Float[Array, "b s d"]:
        """Returns the transformer's hidden states of all slots, frame by frame."""
        config = self.config
        x = self.sequence(image_tokens, actions)
        position = (self.position[...] + self.position_bias[...][None]).astype(x.dtype)
        x = layers.dense(x, self.input, self.input_bias) + position[None]
        keys = None if key is None else jax.random.split(key, config.depth)
        return layers.run_stack(
            self.blocks,
            lambda block, x, key: (block(x, key), None),
            x,
            keys,
            remat=config.remat,
            unroll=config.unroll,
        )[0]

    def sequence(
        self, image_tokens: Float[Array, "b w n f"], actions: Int[Array, "b w a"] | None
    ) -> Float[Array, "b s f"]:
        """Returns what goes into the transformer: each frame's image tokens and its action's."""
        config = self.config
        b, w, _, f = image_tokens.shape
        slots = jnp.zeros((b, w, config.action_tokens, f), image_tokens.dtype)
        if config.takes_actions:
            if actions is None:
                raise ValueError("this model takes the tokens of actions")
            if not config.autoregressive:  # those of the last frame are what is asked
                actions = jnp.asarray(actions).at[:, -1].set(0)
            flat = einops.rearrange(actions, "b w a -> b (w a)")
            rows = sharding.lookup(self.action_embedding[...], flat, image_tokens.dtype)
            rows = rows + self.action_bias[...].astype(rows.dtype)[None, None]
            slots = rows.reshape(slots.shape)
        x = jnp.concatenate([image_tokens, slots], axis=2)
        return einops.rearrange(x, "b w n f -> b (w n) f")

    def asking(self, hidden: Float[Array, "b s d"]) -> Float[Array, "b w a d"]:
        """Returns the hidden states that say an action's tokens: each the one before its slot."""
        config = self.config
        by_frame = einops.rearrange(hidden, "b (w n) d -> b w n d", n=config.frame_tokens)
        return by_frame[:, :, config.image_tokens - 1 : -1]

    def logits(self, hidden: Float[Array, "b ... d"]) -> Float[Array, "b ... v"]:
        """Returns float32 logits over the values of a token."""
        flat = hidden.reshape(hidden.shape[0], -1, hidden.shape[-1])
        flat, rows = sharding.by_rows(flat, self.head.get_value())
        logits = kernels.product("bsd,vd->bsv", flat, rows, jnp.dtype("float32"))
        logits = logits + self.head_bias[...].astype(jnp.float32)[None, None]
        return logits.reshape(*hidden.shape[:-1], -1)

    def decode(
        self, image_tokens: Float[Array, "b w n f"], actions: Int[Array, "b w a"] | None = None
    ) -> Int[Array, "b a"]:
        """Returns the likeliest tokens of the last frame's action, int32.

        In parallel, or one after the other where the model is `autoregressive`.

        Args:
          image_tokens: of `encode`.
          actions: of earlier frames, where the model takes them; the last frame's do not count.
        """
        config = self.config

        def last(actions: Array | None) -> jax.Array:
            asked = self.asking(self.hidden(image_tokens, actions))[:, -1]
            return jnp.argmax(self.logits(asked), axis=-1).astype(jnp.int32)

        if not config.autoregressive:
            return last(actions)
        if actions is None:
            actions = jnp.zeros((*image_tokens.shape[:2], config.action_tokens), jnp.int32)

        def step(number: jax.Array, actions: jax.Array) -> jax.Array:
            return actions.at[:, -1, number].set(last(actions)[:, number])

        start = jnp.asarray(actions, jnp.int32).at[:, -1].set(0)
        return jax.lax.fori_loop(0, config.action_tokens, step, start)[:, -1]


def loss(
    logits: Float[Array, "b w a v"],
    tokens: Int[Array, "b w a"],
    valid: Bool[Array, "b w"] | None = None,
) -> Float[Array, " b"]:
    """Returns the mean cross-entropy of each example, over its frames and tokens, nats.

    Args:
      logits: float32.
      tokens: that are right.
      valid: frames that count; None for all, padded ones too, as the authors do. At least one of
        each example.
    """
    likelihood = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(likelihood, tokens[..., None], axis=-1)[..., 0].mean(axis=-1)
    if valid is None:
        return -chosen.mean(axis=-1)
    return -jnp.where(valid, chosen, 0).sum(axis=-1) / valid.sum(axis=-1)
