"""The model of a run: its structure, its state on the mesh, its training step."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vla_jax.core import trees
from vla_jax.core.batch import Batch
from vla_jax.core.errors import UserError
from vla_jax.experiment import pretraining
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.pretraining import Start
from vla_jax.models import vlm
from vla_jax.runtime import memory, sharding
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.tokens import action_tokens
from vla_jax.tokens.encoder import Encoder
from vla_jax.train import loss, step
from vla_jax.train.action_errors import ActionErrors
from vla_jax.train.optimizer import make_optimizer, make_schedules
from vla_jax.train.state import TrainState
from vla_jax.train.strategy import Strategy

_ADAPTERS = 1  # what the seed is folded with to draw them

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, step.Metrics]]


class Model:
    """The model's structure and how its state lies on the mesh.

    Args:
      config: the run.
      vocabulary: number of token ids.
      mesh: the devices.
    """

    def __init__(self, config: RunConfig, vocabulary: int, mesh: jax.sharding.Mesh):
        self._config, self._vocabulary, self.mesh = config, vocabulary, mesh
        abstract = nnx.eval_shape(lambda: self._build(nnx.Rngs(0)))
        self.graph, state = nnx.split(abstract)
        self._abstract, self.axes = nnx.to_pure_dict(state), vlm.logical_axes(abstract)
        self.fallbacks = sharding.fallbacks(self._abstract, self.axes, mesh)
        self.strategy = Strategy(
            config.strategy, self._abstract, self.axes, jnp.dtype(config.model.dtype)
        )
        trained, axes = self.strategy.trained, self.strategy.trained_axes
        self.optimizer = make_optimizer(
            config.optimizer,
            config.loop.steps,
            trained,
            axes,
            known=trees.named_leaves(self._abstract),
        )

    @property
    def size(self) -> int:
        """Number of parameters of the model."""
        return trees.size(self._abstract)

    @property
    def trained_size(self) -> int:
        """Number of parameters that are trained."""
        return trees.size(self.strategy.trained)

    def abstract_params(self) -> Any:
        """Returns shapes, dtypes and shardings of all parameters, in the dtype of the masters."""
        return _placed(self._abstract, sharding.shardings(self._abstract, self.axes, self.mesh))

    def abstract_state(self) -> TrainState:
        """Returns shapes, dtypes and shardings of the training state."""
        trained, frozen = self.strategy.trained, self.strategy.frozen
        places = sharding.shardings(trained, self.strategy.trained_axes, self.mesh)
        shapes = jax.eval_shape(self._state, trained, frozen)
        state = _placed(shapes, sharding.like(shapes, trained, places))
        axes = self.strategy.frozen_axes
        return dataclasses.replace(
            state, frozen=_placed(frozen, sharding.shardings(frozen, axes, self.mesh))
        )

    def _check_memory(self) -> None:
        """Refuses a model whose parameters alone are more than the memory of all processes."""
        leaves = jax.tree.leaves(self._abstract)
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        there = memory.limit() * jax.process_count()
        if needed > there:
            raise UserError(
                f"config.model: {self.size:,} parameters",
                expected=f"at most the {there / 2**30:,.1f} GiB of memory of all processes",
                found=f"{needed / 2**30:,.1f} GiB",
                fix="Make it smaller, or take a machine that vla-jax plan says it fits",
            )

    def create(self, encoder: Encoder, weights: Start | None = None) -> TrainState:
        """Initialises the training state on the mesh, a function of the seed and of `weights`.

        Raises:
          UserError: the checkpoint does not fit the model, or the model not into memory.
        """
        self._check_memory()
        loaded = {} if weights is None else self._load(weights)
        shapes = {name: leaf.shape for name, leaf in trees.named_leaves(self._abstract).items()}
        whole = {name: leaf for name, leaf in loaded.items() if leaf.shape == shapes[name]}
        takes_text = weights is not None and pretraining.vocabulary(weights, self._config) > 0
        kept = weights.kept_rows if weights is not None and takes_text else 0
        # An embedding to which action rows are added.
        rows = {name: leaf for name, leaf in loaded.items() if name not in whole}

        def build(whole: dict[str, jax.Array], rows: dict[str, jax.Array]) -> TrainState:
            def start(name: str, fresh: jax.Array) -> jax.Array:
                if name in rows:
                    return fresh.at[: len(rows[name])].set(rows[name])
                return whole.get(name, fresh)

            fresh = nnx.to_pure_dict(nnx.state(self._build(nnx.Rngs(self._config.seed))))
            params = trees.map_with_name(start, fresh)
            decoder = params["decoder"]
            decoder["embedding"] = self._with_actions(decoder["embedding"], encoder, kept)
            key = jax.random.fold_in(jax.random.key(self._config.seed), _ADAPTERS)
            return self._state(*self.strategy.split(params, key))

        places = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state())
        return jax.jit(build, out_shardings=places, donate_argnums=0)(whole, rows)

    def joined(self, state: TrainState) -> Any:
        """Returns the parameters of a state to act with, as the model computes with them."""
        return self.strategy.join(state.best, state.frozen)

    def merged(self, trained: Any, frozen: Any) -> Any:
        """Returns parameters as plain arrays on the mesh, see `Strategy.merge`."""
        if not frozen:
            return trained
        places = sharding.shardings(self._abstract, self.axes, self.mesh)
        return jax.jit(self.strategy.merge, out_shardings=places)(trained, frozen)

    def measure(self, sources: int, errors: ActionErrors | None = None) -> step.Measure:
        """Returns the loss function over (`joined` parameters, batch) of so many sources.

        With `errors`, its sums hold those of the actions.
        """
        measure = step.make_loss(
            self.graph,
            prefix=self._config.sequence.prefix,
            sources=sources,
            config=self._config.loss,
            shards=self.mesh.size,
            errors=errors,
        )
        return mesh_lib.under(self.mesh, measure)

    def train_step(self, measure: step.Measure) -> TrainStep:
        """Returns the jitted update (state, batch) -> (state, metrics); the state is donated."""
        prefix = self._config.sequence.prefix
        update = step.make_train_step(
            measure,
            self.optimizer,
            join=self.strategy.join,
            weights=lambda batch: loss.weights(batch.loss_mask[:, prefix:], self._config.loss),
            accumulate=self._config.optimizer.accumulate,
            ema_decay=self._config.optimizer.ema_decay,
            skip_nonfinite=self._config.loop.on_nonfinite == "skip",
        )
        # Every process reads the metrics, of which `example_loss` would lie where its batch does.
        whole = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())
        # Where the state lies is not left to the compiler: the second step would compile again.
        places = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state())
        return jax.jit(update, donate_argnums=0, out_shardings=(places, whole))

    def rates(self, step: int) -> dict[str, float]:
        """Returns the learning rate of update `step`, 1 being the first, and of every group."""
        return {name: float(values[step - 1]) for name, values in self._rates.items()}

    @functools.cached_property
    def _rates(self) -> dict[str, np.ndarray]:
        """The learning rates of all steps: one look costs more than computing them together."""
        count = self._config.loop.steps
        schedules = make_schedules(self._config.optimizer, count)
        return {
            f"learning_rate/{name}" if name else "learning_rate": np.broadcast_to(
                np.asarray(rate(jnp.arange(count))), (count,)
            )
            for name, rate in schedules.items()
        }

    def _state(self, trained: Any, frozen: Any) -> TrainState:
        averaged = self._config.optimizer.ema_decay > 0
        return TrainState.create(trained, self.optimizer, frozen, averaged=averaged)

    def _with_actions(self, embedding: jax.Array, encoder: Encoder, kept: int) -> jax.Array:
        """Gives the rows of the action bins their first values, but for the first `kept` rows."""
        ids = np.asarray(encoder.action_token_ids, np.int32)
        new, kind = ids >= kept, self._config.action_tokens.initialization
        if kind == "smooth" and new.any():
            rows = action_tokens.smooth_rows(len(ids), embedding.shape[1], self._config.seed)
            return embedding.at[ids[new]].set(rows[new].astype(embedding.dtype))
        if kind == "mean" and new.any():
            return embedding.at[ids[new]].set(embedding.mean(axis=0)[None])
        return embedding

    def _load(self, weights: Start) -> dict[str, jax.Array]:
        """Reads what the run takes from a checkpoint, each parameter where it will lie."""
        model = self
        if (rows := pretraining.vocabulary(weights, self._config)) and rows != self._vocabulary:
            model = Model(self._config, rows, self.mesh)
        abstract = {
            name: jax.ShapeDtypeStruct(
                leaf.shape, self.strategy.load_dtype(name), sharding=leaf.sharding
            )
            for name, leaf in trees.named_leaves(model.abstract_params()).items()
        }
        return weights.read(self._config.model, abstract, self._config.pretrained.parts)

    def _build(self, rngs: nnx.Rngs) -> vlm.VLM:
        return vlm.VLM(self._config.model, self._vocabulary, rngs)


def _placed(shapes: Any, places: Any) -> Any:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        places,
    )
