"""Prefill once, then a fixed number of greedy steps over the key-value cache: one jitted call.

Under a grammar mask an illegal token cannot be chosen; n tokens need n - 1 steps after prefill.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vla_jax.core.arrays import Array, Bool, Int

Decoder = Callable[..., Array]


def make_decoder(graph: nnx.GraphDef, mask: Bool[np.ndarray, "n v"]) -> Decoder:
    """Builds the greedy decoder of a fixed number of tokens.

    Args:
      graph: the model's structure, `nnx.split(model)[0]`.
      mask: legal tokens of each of the n positions (`tokens/grammar.py`); all True decodes freely.

    Returns:
      A jitted function (params, prefix tokens int32 [b, t], prefix length int32 [b], and by name
      the observations that `VLM.prefill` takes) -> tokens int32 [b, n].
    """
    legal = jnp.asarray(mask)

    def decode(
        params: Any,
        tokens: Int[Array, "b t"],
        prefix_length: Int[Array, " b"],
        **observations: Array,
    ) -> Int[Array, "b n"]:
        model = nnx.merge(graph, params)
        named = {"tokens": tokens, "prefix_length": prefix_length, **observations}
        return greedy(model, legal, lambda logits: None, **named)[0]

    return jax.jit(decode)


def greedy(
    model: Any,
    legal: Bool[Array, "n v"],
    watch: Callable[[Array], Any],
    **inputs: Array,
) -> tuple[Int[Array, "b n"], Any]:
    """Decodes n tokens, each the likeliest of those that are legal at its position.

    Args:
      model: a VLM.
      legal: the mask.
      watch: what to keep of the logits [b, v] of a position, before the mask.
      **inputs: what `VLM.prefill` takes, by name.

    Returns:
      The tokens, and what `watch` kept, stacked on the second axis.
    """

    def choose(logits: Array, allowed: Array) -> Array:
        masked = jnp.where(allowed[None, None], logits, -jnp.inf)
        return jnp.argmax(masked, axis=-1).astype(jnp.int32)

    logits, cache = model.prefill(slots=legal.shape[0] - 1, **inputs)
    first, kept = choose(logits, legal[0]), watch(logits[:, 0])

    def step(carry: Any, allowed: Array) -> tuple[Any, Any]:
        token, cache = carry
        logits, cache = model.step(token, cache)
        token = choose(logits, allowed)
        return (token, cache), (token[:, 0], watch(logits[:, 0]))

    _, (rest, more) = jax.lax.scan(step, (first, cache), legal[1:])
    tokens = jnp.concatenate([first, rest.T], axis=1)
    stacked = jax.tree.map(
        lambda one, others: jnp.swapaxes(jnp.concatenate([one[None], others]), 0, 1), kept, more
    )
    return tokens, stacked
