"""Prefill once, then greedy steps over the key-value cache: one jitted call.

What is decoded obeys an automaton: an illegal token cannot be chosen, whatever the logits. n tokens
need n - 1 steps after prefill, fewer where all examples end before.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from vla_jax.core.arrays import Array, Float, Int
from vla_jax.tokens.automaton import Automaton

Decoder = Callable[..., Array]


class Rules(NamedTuple):
    """An `Automaton` on the devices: see there."""

    classes: Int[Array, " v"]
    step: Int[Array, "s c"]
    need: Int[Array, " s"]
    start: int | Int[Array, ""]
    length: int

    @classmethod
    def of(cls, automaton: Automaton) -> "Rules":
        """Returns the rules of an automaton."""
        tables = map(jnp.asarray, (automaton.classes, automaton.step, automaton.need))
        return cls(*tables, start=automaton.start, length=automaton.length)

    def choose(
        self, logits: Float[Array, "b v"], state: Int[Array, " b"], left: Int[Array, ""] | int
    ) -> tuple[Int[Array, " b"], Int[Array, " b"]]:
        """Returns the likeliest legal tokens with room for `left`, and the states after them."""
        after = self.step[state]
        allowed = (after >= 0) & (self.need[jnp.maximum(after, 0)] < left)
        lowest = jnp.finfo(logits.dtype).min
        # A legal token stays above the illegal ones even if its logit is -inf or no number.
        held = jnp.where(jnp.isnan(logits), lowest, jnp.maximum(logits, lowest))
        masked = jnp.where(allowed[:, self.classes], held, -jnp.inf)
        token = jnp.argmax(masked, axis=-1).astype(jnp.int32)
        return token, jnp.take_along_axis(after, self.classes[token][:, None], axis=1)[:, 0]


def make_decoder(graph: nnx.GraphDef, automaton: Automaton) -> Decoder:
    """Builds a greedy decoder.

    Args:
      graph: the model's structure, `nnx.split(model)[0]`.
      automaton: what may be written, n tokens at most.

    Returns:
      A jitted function (params, prefix tokens int32 [b, t], prefix length int32 [b], and by name
      the observations that `VLM.prefill` takes) -> tokens int32 [b, n], padded behind the end.
    """
    rules = Rules.of(automaton)

    def decode(
        params: Any,
        tokens: Int[Array, "b t"],
        prefix_length: Int[Array, " b"],
        **observations: Array,
    ) -> Int[Array, "b n"]:
        model = nnx.merge(graph, params)
        named = {"tokens": tokens, "prefix_length": prefix_length, **observations}
        return greedy(model, rules, lambda logits: None, **named)[0]

    return jax.jit(decode)


def greedy(
    model: Any,
    rules: Rules,
    watch: Callable[[Array], Any],
    **inputs: Array,
) -> tuple[Int[Array, "b n"], Any]:
    """Decodes n tokens, each the likeliest of those that are legal after the ones before it.

    Args:
      model: a VLM.
      rules: what is legal.
      watch: what to keep of the logits [b, v] of a position, before the mask, [b, i].
      **inputs: what `VLM.prefill` takes, by name.

    Returns:
      The tokens, and what `watch` kept, stacked on the second axis; zeros behind the end.
    """
    n = rules.length
    logits, cache = model.prefill(slots=n - 1, **inputs)
    state = jnp.full(logits.shape[:1], rules.start, jnp.int32)

    def put(all_places: Array, place: Any, value: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(all_places, value, place, 1)

    def write(place: Any, logits: Array, state: Array, out: Any) -> tuple[Array, Array, Any]:
        token, after = rules.choose(logits[:, 0], state, n - place)
        is_open = (state > 0)[:, None]
        kept = jax.tree.map(lambda x: jnp.where(is_open, x, 0), watch(logits[:, 0]))
        found = (token, kept)
        return token, after, jax.tree.map(lambda rows, value: put(rows, place, value), out, found)

    shapes = jax.eval_shape(lambda logits: (state, watch(logits[:, 0])), logits)
    empty = jax.tree.map(lambda s: jnp.zeros((s.shape[0], n, *s.shape[1:]), s.dtype), shapes)
    token, state, out = write(0, logits, state, empty)

    def is_open(carry: Any) -> Array:
        place, _, state, _, _ = carry
        return (place < n) & (state > 0).any()

    def advance(carry: Any) -> Any:
        place, token, state, cache, out = carry
        logits, cache = model.step(token[:, None], cache)
        token, state, out = write(place, logits, state, out)
        return place + 1, token, state, cache, out

    carry = (jnp.int32(1), token, state, cache, out)
    return jax.lax.while_loop(is_open, advance, carry)[-1]
