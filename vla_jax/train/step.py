"""One update and one measurement, as pure functions to be jitted."""

from collections.abc import Callable
from typing import Any, Protocol

import einops
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from vla_jax.core.arrays import Array, Float, UInt8
from vla_jax.core.batch import Batch
from vla_jax.train import loss as loss_lib
from vla_jax.train.action_errors import ActionErrors
from vla_jax.train.state import TrainState

Metrics = dict[str, Any]


class Measure(Protocol):
    """The loss of a batch under some parameters."""

    def __call__(
        self, params: Any, batch: Batch, weight: Float[Array, " b"] | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        """Returns the loss, and `sums` per source and `example_loss` [b].

        `weight` is what one nat in each example counts, where the batch is part of a larger one.
        """
        ...


def make_loss(
    graph: nnx.GraphDef,
    *,
    prefix: int,
    sources: int,
    config: loss_lib.LossConfig,
    shards: int = 1,
    errors: ActionErrors | None = None,
) -> Measure:
    """Returns the loss function of a model.

    Args:
      graph: the model's structure, `nnx.split(model)[0]`.
      prefix: number of prefix slots in `batch.tokens`.
      sources: number of mixture sources.
      config: the normalisation, and how much memory logits may take.
      shards: number of devices over which the logits of a batch are spread.
      errors: of the actions, to be summed up as well.
    """

    def measure(
        params: Any, batch: Batch, weight: Float[Array, " b"] | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        model = nnx.merge(graph, params)
        images = batch.images if batch.colour is None else recolour(batch.images, batch.colour)
        state = (batch.state, batch.state_mask) if model.config.state else ()
        hidden = model.hidden(
            images, batch.tokens, batch.prefix_length, prefix, batch.image_mask, *state
        )
        targets, mask = batch.tokens[:, prefix:], batch.loss_mask[:, prefix:]
        size = targets.size * model.decoder.vocabulary
        cut = loss_lib.chunks(size, targets.shape[1], shards, config)
        losses = loss_lib.token_losses(model.decoder.logits, hidden, targets, cut)
        weight = loss_lib.weights(mask, config) if weight is None else weight
        value, example_loss = loss_lib.suffix_loss(losses, mask, weight, config)
        sums = loss_lib.source_sums(losses, example_loss, targets, mask, batch.source, sources)
        valid = {"images": jnp.sum(batch.image_mask, axis=1), "prefix": batch.prefix_length}
        sums |= loss_lib.by_source(valid, batch.source, sources)
        if errors is not None:
            sums |= errors.sums(losses.predicted, targets, mask, batch.source)
        return value, {"sums": sums, "example_loss": example_loss}

    return measure


def recolour(
    images: UInt8[Array, "b w y x 3"], colour: Float[Array, "b 3 4"]
) -> UInt8[Array, "b w y x 3"]:
    """Applies each example's colour map (`Batch.colour`) as the host would: rounded, clipped."""
    matrix, offset = colour[..., :3], colour[:, None, None, None, :, 3]
    changed = jnp.einsum("bij,bwyxj->bwyxi", matrix, images.astype(jnp.float32)) + offset
    return jnp.clip(jnp.rint(changed), 0, 255).astype(jnp.uint8)


def make_train_step(
    measure: Measure,
    optimizer: optax.GradientTransformation,
    *,
    join: Callable[[Any, Any], Any] = lambda trained, frozen: trained,
    weights: Callable[[Batch], Array] | None = None,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    skip_nonfinite: bool = False,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns (state, batch) -> (next state, metrics); donate the state when jitting it.

    Args:
      measure: the loss function.
      optimizer: the update rule.
      join: (trained, frozen parameters) -> those of the model.
      weights: batch -> what a nat in each example counts; needed to accumulate.
      accumulate: parts of a batch whose gradients are computed one after the other; the update is
        that of the whole batch.
      ema_decay: of the running average of the parameters, if the state has one.
      skip_nonfinite: whether a batch whose loss or gradient is not finite changes nothing.

    The metrics are `loss`, `gradient_norm`, `sums` per source, `example_loss` [b] and `finite`.
    """

    def gradients(state: TrainState, batch: Batch) -> tuple[Array, Metrics, Any]:
        def value(trained: Any, batch: Batch, weight: Array | None) -> tuple[Array, Metrics]:
            return measure(join(trained, state.frozen), batch, weight)

        differentiate = jax.value_and_grad(value, has_aux=True)
        if accumulate == 1 or weights is None:
            (loss, aux), gradient = differentiate(state.params, batch, None)
            return loss, aux, gradient
        return _accumulated(differentiate, state.params, batch, weights(batch), accumulate)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        loss, aux, gradient = gradients(state, batch)
        norm = optax.tree.norm(gradient)
        updates, opt_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = optax.incremental_update(params, ema, 1 - ema_decay)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        new, old = (params, opt_state, ema), (state.params, state.optimizer, state.ema)
        if skip_nonfinite:
            new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        state = TrainState(
            step=state.step + 1,
            params=new[0],
            frozen=state.frozen,
            optimizer=new[1],
            ema=new[2],
        )
        return state, {"loss": loss, "gradient_norm": norm, "finite": finite} | aux

    return step


def _accumulated(
    differentiate: Callable[..., Any], params: Any, batch: Batch, weight: Array, parts: int
) -> tuple[Array, Metrics, Any]:
    """Sums losses and float32 gradients over parts of a batch, with metrics in its order."""

    def cut(x: Array) -> Array:
        # Strided, so that every device keeps its own examples in every part.
        return einops.rearrange(x, "(b k) ... -> k b ...", k=parts)

    def add(total: tuple[Array, Any, Any], part: tuple[Batch, Array]) -> Any:
        (loss, aux), gradient = differentiate(params, *part)
        new = (loss, aux["sums"], jax.tree.map(lambda g: g.astype(jnp.float32), gradient))
        return jax.tree.map(jnp.add, total, new), aux["example_loss"]

    pieces = jax.tree.map(cut, (batch, weight))
    first = jax.tree.map(lambda x: x[0], pieces)
    (loss, aux), _ = jax.eval_shape(differentiate, params, *first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (loss, aux["sums"], params))
    (loss, sums, gradient), each = jax.lax.scan(add, zeros, pieces)
    example_loss = einops.rearrange(each, "k b -> (b k)")
    return loss, {"sums": sums, "example_loss": example_loss}, gradient
