"""What a model holds of what was demonstrated: teacher-forced, over the full vocabulary."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vla_jax.core.arrays import Array, Float, Int


def make_scorer(graph: nnx.GraphDef, prefix: int) -> Callable[..., tuple[Array, Array]]:
    """Builds the scorer.

    Args:
      graph: the model's structure, `nnx.split(model)[0]`.
      prefix: number of prefix slots.

    Returns:
      A jitted function (params, tokens int32 [b, t], prefix length int32 [b], and by name the
      observations that `VLM.hidden` takes) -> for every suffix slot, given the true tokens before
      it: float32 [b, n], the negative log-likelihood in nats of the one that stands there, and
      int32 [b, n], the likeliest one.
    """

    def score(
        params: Any,
        tokens: Int[Array, "b t"],
        prefix_length: Int[Array, " b"],
        **observations: Array,
    ) -> tuple[Float[Array, "b n"], Int[Array, "b n"]]:
        model = nnx.merge(graph, params)
        hidden = model.hidden(
            tokens=tokens, prefix_length=prefix_length, prefix=prefix, **observations
        )
        chances = jax.nn.log_softmax(model.decoder.logits(hidden), axis=-1)
        targets = tokens[:, prefix:, None]
        nll = -jnp.take_along_axis(chances, targets, axis=-1)[..., 0]
        return nll, jnp.argmax(chances, axis=-1).astype(jnp.int32)

    return jax.jit(score)
