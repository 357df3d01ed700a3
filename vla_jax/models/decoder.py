"""The language model: a decoder of pre-norm layers with grouped-query attention and a gated MLP.

Gemma 1, Gemma 2 and Llama 2 are this module with other values (`gemma.py`, `llama.py`). Sources:
big_vision:models/ppp/gemma.py and gemma2.py, transformers:models/llama/modeling_llama.py.
"""

import dataclasses
import functools
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from vla_jax.core.arrays import Array, Float, Int
from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, Count, Positive, Range, Size
from vla_jax.models import attention, kernels, layers
from vla_jax.runtime import sharding


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(Checked):
    """Sizes of the decoder; the defaults are Gemma 2B.

    Attributes:
      width: residual width d.
      depth: number of layers.
      mlp: hidden size of the gated feed-forward layer.
      heads: query heads h.
      key_heads: key and value heads; divides `heads`.
      head_dim: size k of one head, even.
      activation: of the gate.
      rope_base: wavelength base of the rotary embedding.
      norm_offset: added to the scale of every norm: 1 for Gemma, 0 for Llama.
      norm_epsilon: added to the mean square in every norm.
      post_norms: whether what a layer adds is normalised too (Gemma 2).
      embedding_scale: whether embeddings are multiplied by sqrt(d) (Gemma).
      tied: whether the embedding is the output matrix too.
      query_scale: factor on the attention logits; None is k**-0.5.
      attention_softcap: c of c tanh(x / c) on attention logits (Gemma 2); None for none.
      final_softcap: the same on the output logits.
      window: longest sequence, s, for which attention is not limited to a sliding window (every
        second layer of Gemma 2); longer ones are refused. None for any.
    """

    width: Annotated[int, Range(1, 2**17)] = 2048
    depth: Annotated[int, Range(1, 1024)] = 18
    mlp: Size = 16384
    heads: Annotated[int, Range(1, 1024)] = 8
    key_heads: Annotated[int, Range(1, 1024)] = 1
    head_dim: Annotated[int, Range(2, 4096)] = 256
    activation: layers.Activation = "gelu"
    rope_base: Annotated[float, Range(1, 10**12)] = 10_000.0
    norm_offset: Annotated[float, Range(-10, 10)] = 1.0
    norm_epsilon: Annotated[float, Range(0, 1)] = 1e-6
    post_norms: bool = False
    embedding_scale: bool = True
    tied: bool = True
    query_scale: Positive | None = None
    attention_softcap: Positive | None = None
    final_softcap: Positive | None = None
    window: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads % self.key_heads or self.head_dim % 2:
            raise UserError(
                "config.model.decoder",
                expected="key_heads divides heads and head_dim is even",
                found=f"heads {self.heads}, key_heads {self.key_heads}, head_dim {self.head_dim}",
            )


KeyValue = tuple[Array, Array]


class DecoderBlock(nnx.Module):
    """One layer; parameters carry the leading `layers` axis when `init` stacks."""

    def __init__(self, config: DecoderConfig, init: layers.Initializer):
        d, h, g, k = config.width, config.heads, config.key_heads, config.head_dim
        m = config.mlp
        out = (2 * config.depth) ** -0.5
        self.config = config
        one = 1 - config.norm_offset
        self.attention_norm = init.constant((d,), ("norm",), one)
        self.query = init.normal((d, h, k), ("embed", "heads", "head_dim"), d**-0.5)
        self.key = init.normal((d, g, k), ("embed", "kv", "head_dim"), d**-0.5)
        self.value = init.normal((d, g, k), ("embed", "kv", "head_dim"), d**-0.5)
        self.out = init.normal((h, k, d), ("heads", "head_dim", "embed"), out * (h * k) ** -0.5)
        self.mlp_norm = init.constant((d,), ("norm",), one)
        self.gate = init.normal((d, m), ("embed", "mlp"), d**-0.5)
        self.up = init.normal((d, m), ("embed", "mlp"), d**-0.5)
        self.down = init.normal((m, d), ("mlp", "embed"), out * m**-0.5)
        if config.post_norms:
            self.post_attention_norm = init.constant((d,), ("norm",), one)
            self.post_mlp_norm = init.constant((d,), ("norm",), one)

    def __call__(
        self,
        x: Float[Array, "b q d"],
        positions: Int[Array, "b q"],
        mask: attention.Mask,
        cache: KeyValue | None = None,
        index: Array | int = 0,
        *,
        asking: int | None = None,
        backend: attention.Backend = "xla",
    ) -> tuple[Float[Array, "b q d"], KeyValue]:
        """Adds attention and feed-forward to the residual stream.

        Args:
          x: residual stream of the tokens.
          positions: their rotary positions.
          mask: which keys each may see.
          cache: keys and values [b, s, g, k] to write this call's into and attend over.
          index: the cache slot of the first token.
          asking: how many of the last tokens go on; the others only give keys and values. None
            for all.
          backend: see `attention.attend`.

        Returns:
          The residual stream of the asking tokens, and the keys and values attended over.
        """
        config = self.config
        y = normalize(x, self.attention_norm, config)
        asked = y if asking is None else y[:, -asking:]
        query, key, value = (
            layers.heads(part, kernel)
            for part, kernel in ((asked, self.query), (y, self.key), (y, self.value))
        )
        if asking is not None:
            x = x[:, -asking:]
        query = attention.rope(query, positions[:, -query.shape[1] :], config.rope_base)
        key = attention.rope(key, positions, config.rope_base)
        if cache is not None:
            key = jax.lax.dynamic_update_slice_in_dim(cache[0], key, index, 1)
            value = jax.lax.dynamic_update_slice_in_dim(cache[1], value, index, 1)
        y = attention.attend(
            query,
            key,
            value,
            mask,
            scale=config.query_scale,
            softcap=config.attention_softcap,
            backend=backend,
        )
        y = layers.product("bqhk,hkd->bqd", y, self.out)
        x = x + (normalize(y, self.post_attention_norm, config) if config.post_norms else y)
        y = normalize(x, self.mlp_norm, config)
        gate = layers.activate(layers.dense(y, self.gate), config.activation)
        y = layers.dense(gate * layers.dense(y, self.up), self.down)
        x = x + (normalize(y, self.post_mlp_norm, config) if config.post_norms else y)
        return x, (key, value)


class Decoder(nnx.Module):
    """Token ids and embeddings -> hidden states -> logits."""

    def __init__(self, config: DecoderConfig, vocabulary: int, rngs: nnx.Rngs, dtype: jnp.dtype):
        init = layers.Initializer(rngs, dtype)
        shape = (vocabulary, config.width)
        self.config, self.vocabulary = config, vocabulary
        self.embedding = init.normal(shape, ("vocab", "embed"), config.width**-0.5)
        self.blocks = DecoderBlock(config, layers.Initializer(rngs, dtype, config.depth))
        self.norm = init.constant((config.width,), ("norm",), 1 - config.norm_offset)
        if not config.tied:
            self.head = init.normal(shape, ("vocab", "embed"), config.width**-0.5)

    def embed(self, tokens: Int[Array, "b t"], dtype: jnp.dtype) -> Float[Array, "b t d"]:
        """Returns the embeddings of token ids."""
        rows = sharding.lookup(self.embedding[...], tokens, dtype)
        if not self.config.embedding_scale:
            return rows
        return rows * jnp.asarray(self.config.width**0.5, dtype)

    def __call__(
        self,
        x: Float[Array, "b s d"],
        positions: Int[Array, "b s"],
        mask: attention.Mask,
        *,
        remat: layers.Remat = "none",
        unroll: int = 1,
        keep_cache: bool = False,
        asking: int | None = None,
        backend: attention.Backend = "xla",
    ) -> tuple[Float[Array, "b q d"], KeyValue | None]:
        """Runs all layers over embeddings.

        Args:
          x: embeddings.
          positions: rotary positions.
          mask: which keys each may see.
          remat: what the backward pass recomputes.
          unroll: layers per loop iteration.
          keep_cache: whether keys and values are wanted.
          asking: how many of the last hidden states are wanted; None for all. Where the loop is
            unrolled the last layer computes no others, which a loop over equal layers cannot.
          backend: see `attention.attend`.

        Returns:
          Normalised hidden states [b, asking, d], and keys and values [l, b, s, g, k] if
          `keep_cache`.
        """
        window = self.config.window
        if window is not None and x.shape[1] > window:
            raise UserError(
                "config.model.decoder: the sliding window is not built",
                expected=f"at most {window} tokens of images and text",
                found=x.shape[1],
            )

        def call(
            block: DecoderBlock, x: Array, _: None, asking: int | None = None
        ) -> tuple[Array, KeyValue | None]:
            x, key_value = block(x, positions, mask, asking=asking, backend=backend)
            return x, key_value if keep_cache else None

        x, cache = layers.run_stack(
            self.blocks,
            call,
            x,
            remat=remat,
            unroll=unroll,
            last=functools.partial(call, asking=asking) if asking is not None else None,
        )
        if asking is not None:
            x = x[:, -asking:]
        return normalize(x, self.norm, self.config), cache

    def step(
        self,
        x: Float[Array, "b 1 d"],
        positions: Int[Array, "b 1"],
        mask: attention.Mask,
        cache: KeyValue,
        index: Array | int,
        *,
        unroll: int = 1,
    ) -> tuple[Float[Array, "b 1 d"], KeyValue]:
        """Runs all layers for one token, written into slot `index` of the cache."""

        def call(block: DecoderBlock, x: Array, layer: KeyValue) -> tuple[Array, KeyValue]:
            return block(x, positions, mask, layer, index)

        x, cache = layers.run_stack(self.blocks, call, x, cache, unroll=unroll)
        return normalize(x, self.norm, self.config), cache

    def logits(self, hidden: Float[Array, "b s d"]) -> Float[Array, "b s v"]:
        """Returns float32 logits over the vocabulary."""
        table = self.embedding if self.config.tied else self.head
        hidden, rows = sharding.by_rows(hidden, table.get_value())
        logits = kernels.product("bsd,vd->bsv", hidden, rows, jnp.dtype("float32"))
        return attention.cap(logits, self.config.final_softcap)


def normalize(
    x: Float[Array, "b s d"], scale: nnx.Param, config: DecoderConfig
) -> Float[Array, "b s d"]:
    """Applies RMSNorm with the offset of the family."""
    factor = config.norm_offset + scale[...].astype(jnp.float32)
    return layers.rms_norm(x, factor, config.norm_epsilon)
