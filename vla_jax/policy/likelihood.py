"""How likely a model holds what was demonstrated: teacher-forced, over the full vocabulary."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vla_jax.core.arrays import Array, Float, Int


def make_scorer(graph: nnx.GraphDef, prefix: int) -> Callable[..., Array]:
    """Builds the scorer.

    Args:
      graph: the model's structure, `nnx.split(model)[0]`.
      prefix: number of prefix slots.

    Returns:
      A jitted function (params, tokens int32 [b, t], prefix length int32 [b], and by name the
      observations that `VLM.hidden` takes) -> float32 [b, n], negative log-likelihood in nats of
      the token in every suffix slot, given the true ones before it.
    """

    def score(
        params: Any,
        tokens: Int[Array, "b t"],
        prefix_length: Int[Array, " b"],
        **observations: Array,
    ) -> Float[Array, "b n"]:
        model = nnx.merge(graph, params)
        hidden = model.hidden(
            tokens=tokens, prefix_length=prefix_length, prefix=prefix, **observations
        )
        chances = jax.nn.log_softmax(model.decoder.logits(hidden), axis=-1)
        targets = tokens[:, prefix:, None]
        return -jnp.take_along_axis(chances, targets, axis=-1)[..., 0]

    return jax.jit(score)
