"""One update and one held-out measurement, as pure functions to be jitted."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from vla_jax.core.arrays import Array, Float, UInt8
from vla_jax.core.batch import Batch
from vla_jax.train import loss as loss_lib
from vla_jax.train.state import TrainState

Sums = dict[str, Array]


def make_loss(
    graph: nnx.GraphDef, *, prefix: int, sources: int, config: loss_lib.LossConfig
) -> Callable[[Any, Batch], tuple[Array, Sums]]:
    """Returns (params, batch) -> (loss, sums per source).

    Args:
      graph: the model's structure, `nnx.split(model)[0]`.
      prefix: number of prefix slots in `batch.tokens`.
      sources: number of mixture sources.
      config: the normalisation.
    """

    def loss(params: Any, batch: Batch) -> tuple[Array, Sums]:
        model = nnx.merge(graph, params)
        images = batch.images if batch.colour is None else recolour(batch.images, batch.colour)
        state = (batch.state, batch.state_mask) if model.config.state else ()
        logits = model.logits(
            images, batch.tokens, batch.prefix_length, prefix, batch.image_mask, *state
        )
        return loss_lib.suffix_loss(
            logits,
            batch.tokens[:, prefix:],
            batch.loss_mask[:, prefix:],
            batch.source,
            sources=sources,
            config=config,
        )

    return loss


def recolour(
    images: UInt8[Array, "b w y x 3"], colour: Float[Array, "b 3 4"]
) -> UInt8[Array, "b w y x 3"]:
    """Applies each example's colour map (`Batch.colour`) as the host would: rounded, clipped."""
    matrix, offset = colour[..., :3], colour[:, None, None, None, :, 3]
    changed = jnp.einsum("bij,bwyxj->bwyxi", matrix, images.astype(jnp.float32)) + offset
    return jnp.clip(jnp.rint(changed), 0, 255).astype(jnp.uint8)


def make_train_step(
    loss: Callable[[Any, Batch], tuple[Array, Sums]],
    optimizer: optax.GradientTransformation,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]:
    """Returns (state, batch) -> (next state, metrics); donate the state when jitting it."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        (value, sums), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, batch)
        updates, opt_state = optimizer.update(gradient, state.optimizer, state.params)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient), "sums": sums}
        params = optax.apply_updates(state.params, updates)
        return TrainState(step=state.step + 1, params=params, optimizer=opt_state), metrics

    return step
