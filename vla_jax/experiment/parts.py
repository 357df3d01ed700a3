"""The parts of a run, built from its configuration: encoder, loader, model, policy."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from vla_jax.core import trees
from vla_jax.data import ledger
from vla_jax.data.loader import Loader
from vla_jax.data.source import Source
from vla_jax.experiment import pretraining, sources
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.sources import Data
from vla_jax.models import vlm
from vla_jax.models.pretrained import Weights
from vla_jax.policy.observation import Observer
from vla_jax.policy.policy import Policy
from vla_jax.runtime import progress, sharding
from vla_jax.tokens import action_tokens
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.tokenizer import Tokenizer
from vla_jax.train.optimizer import make_optimizer
from vla_jax.train.state import TrainState


def make_encoder(config: RunConfig, data: Data, weights: Weights | None = None) -> Encoder:
    """Trains or loads the tokenizer, takes the statistics, chooses the action ids.

    Raises:
      UserError: the vocabulary cannot hold the bins, or is not that of the pretrained `weights`.
    """
    if config.tokenizer.path is not None:
        tokenizer = Tokenizer.load(config.tokenizer.path)
    else:
        prompts = config.prompts
        texts = {
            prompts.for_robot(text) for robot in data.robots.values() for text in robot.texts()
        }
        if config.action_tokens.scheme == "integers":
            texts |= set(map(str, range(config.bins.count)))
        texts = texts.union(*(web.written(prompts) for web in data.web.values()))
        tokenizer = Tokenizer.train(texts, config.tokenizer.size, config.tokenizer.locations)
    pretraining.check_tokenizer(weights, config, tokenizer)
    tokenizer, ids = action_tokens.choose_ids(config.action_tokens, tokenizer, config.bins.count)
    actions = {
        name: action_tokens.ActionTokens(
            robot.spec, robot.statistics(), ids, config.bins.convention
        )
        for name, robot in data.robots.items()
    }
    states = {name: robot.state_statistics() for name, robot in data.robots.items()}
    return Encoder(
        tokenizer,
        actions,
        config.prompts,
        config.sequence,
        chunk=config.loader.chunk,
        states={name: statistics for name, statistics in states.items() if statistics is not None},
        image_tokens=config.image_tokens,
        rows=pretraining.vocabulary(weights, config),
    )


def make_loader(
    config: RunConfig,
    examples: Sequence[Source],
    encoder: Encoder,
    start: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Loader:
    """Returns the stream of training batches, `start` batches in.

    `part` is which part of every batch this process reads, and of how many.
    """
    return Loader(
        examples,
        config.mixture,
        encoder,
        config.loader,
        image_size=config.model.vision.image_size,
        state=config.model.state,
        seed=config.seed,
        start=start,
        process=part,
    )


def print_ledger(config: RunConfig, data: Data, encoder: Encoder, loader: Loader) -> None:
    """Prints shares, epochs and tokens per source, what is left out, and the memory it takes."""
    entries = ledger.entries(
        config.mixture,
        data.sources,
        encoder,
        batch_size=config.loader.batch_size,
        steps=config.loop.steps,
    )
    title = f"mixture over {config.loop.steps:,} steps of {config.loader.batch_size}"
    progress.table(title, ledger.HEADER, [entry.row() for entry in entries])
    for line in ledger.left_out(data.robots.values()):
        progress.note(line)
    progress.note(f"loader memory, predicted: {loader.predicted_ram() / 2**20:,.0f} MiB per host")


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
        self._abstract = nnx.to_pure_dict(state)
        axes = vlm.logical_axes(abstract)
        self.shardings = sharding.shardings(self._abstract, axes, mesh)
        self.fallbacks = sharding.fallbacks(self._abstract, axes, mesh)
        self.optimizer = make_optimizer(config.optimizer, config.loop.steps, self._abstract, axes)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self._abstract))

    def abstract_params(self) -> Any:
        """Returns shapes, dtypes and shardings of the parameters."""
        return _placed(self._abstract, self.shardings)

    def abstract_state(self) -> TrainState:
        """Returns shapes, dtypes and shardings of the training state."""
        shapes = jax.eval_shape(
            lambda params: TrainState.create(params, self.optimizer), self._abstract
        )
        return _placed(shapes, sharding.like(shapes, self._abstract, self.shardings))

    def create(self, encoder: Encoder, weights: Weights | None = None) -> TrainState:
        """Initialises the training state on the mesh, a function of the seed and of `weights`.

        Raises:
          UserError: the checkpoint does not fit the model.
        """
        loaded = {} if weights is None else self._load(weights)
        shapes = {name: leaf.shape for name, leaf in trees.named_leaves(self._abstract).items()}
        whole = {name: leaf for name, leaf in loaded.items() if leaf.shape == shapes[name]}
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
            decoder["embedding"] = self._with_actions(decoder["embedding"], encoder)
            return TrainState.create(params, self.optimizer)

        places = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state())
        return jax.jit(build, out_shardings=places, donate_argnums=0)(whole, rows)

    def _with_actions(self, embedding: jax.Array, encoder: Encoder) -> jax.Array:
        """Gives the rows of the action bins their first values."""
        ids, kind = np.asarray(encoder.action_token_ids), self._config.action_tokens.initialization
        if kind == "smooth":
            rows = action_tokens.smooth_rows(len(ids), embedding.shape[1], self._config.seed)
            return embedding.at[ids].set(rows.astype(embedding.dtype))
        if kind == "mean":
            return embedding.at[ids].set(embedding.mean(axis=0)[None])
        return embedding

    def _load(self, weights: Weights) -> dict[str, jax.Array]:
        """Reads what the run takes from a checkpoint, each parameter where it will lie."""
        model = self
        if (rows := pretraining.vocabulary(weights, self._config)) and rows != self._vocabulary:
            model = Model(self._config, rows, self.mesh)
        abstract = trees.named_leaves(model.abstract_params())
        return weights.read(self._config.model, abstract, self._config.pretrained.parts)

    def _build(self, rngs: nnx.Rngs) -> vlm.VLM:
        return vlm.VLM(self._config.model, self._vocabulary, rngs)


def make_policies(
    config: RunConfig, encoder: Encoder, model: Model, params: Any
) -> dict[str, Policy]:
    """Returns a policy per robot of the mixture; they share the parameters.

    The parameters are put on one device if they are not split over several.
    """
    if model.mesh.shape["fsdp"] * model.mesh.shape["tensor"] == 1:
        params = jax.device_put(params, jax.local_devices()[0])
    return {
        name: Policy(
            model.graph,
            params,
            encoder,
            robot=name,
            observer=Observer(
                views=[view for view in config.loader.views if view in robot.images],
                history=config.loader.history,
                image_size=config.model.vision.image_size,
                resize=config.loader.resize,
                state=config.model.state,
                statistics=encoder.states.get(name),
            ),
        )
        for name, robot in sources.robots(config).items()
    }


def summary(config: RunConfig, steps: int, seconds: float) -> dict[str, float]:
    """Returns what results.json says of a training: steps, seconds, samples per second."""
    return {
        "steps": steps,
        "seconds": round(seconds, 1),
        "samples_per_s": round(steps * config.loader.batch_size / seconds, 1),
    }


def _placed(shapes: Any, places: Any) -> Any:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        places,
    )
