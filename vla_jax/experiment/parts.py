"""The parts of a run, built from its configuration: data, encoder, model."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from vla_jax.data.episodes import Episodes
from vla_jax.data.loader import Loader, Source
from vla_jax.data.robots.table import ROBOTS
from vla_jax.data.web import Questions
from vla_jax.envs.tabletop import datasets
from vla_jax.experiment.config import RunConfig
from vla_jax.models import vlm
from vla_jax.policy.policy import Policy
from vla_jax.runtime import sharding
from vla_jax.tokens import action_tokens
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.tokenizer import Tokenizer
from vla_jax.train.optimizer import make_optimizer
from vla_jax.train.state import TrainState

OnProgress = Callable[[str, int, int], None]
SOURCES = ("robot", "web")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The datasets of a run, opened.

    Attributes:
      robot: training episodes.
      robot_held_out: held-out episodes of the same dataset.
      web: training questions.
      web_held_out: validation questions.
    """

    robot: Episodes
    robot_held_out: Episodes
    web: Questions
    web_held_out: Questions


def open_data(config: RunConfig, on_progress: OnProgress) -> Data:
    """Opens the datasets, generating the tabletop's first where the configuration names none."""
    robot_dir, web_dir = config.robot_dir, config.web_dir
    if robot_dir is None or web_dir is None:
        made = datasets.ensure(config.tabletop, config.data_dir, on_progress)
        robot_dir, web_dir = robot_dir or str(made.robot), web_dir or str(made.web)
    robot, size = ROBOTS[config.robot], config.model.vision.image_size
    held_out = config.loader.held_out
    return Data(
        robot=Episodes(robot_dir, robot, part="train", held_out=held_out, image_size=size),
        robot_held_out=Episodes(
            robot_dir, robot, part="held_out", held_out=held_out, image_size=size
        ),
        web=Questions(web_dir, split="train", image_size=size),
        web_held_out=Questions(web_dir, split="validation", image_size=size),
    )


def make_encoder(config: RunConfig, data: Data) -> Encoder:
    """Trains or loads the tokenizer, takes the statistics, chooses the action ids.

    Raises:
      UserError: the vocabulary cannot hold the bins.
    """
    if config.tokenizer.path is not None:
        tokenizer = Tokenizer.load(config.tokenizer.path)
    else:
        prompts = config.prompts
        texts = {prompts.for_robot(text) for text in set(data.robot.texts())}
        texts |= {prompts.for_web(text) for text in set(data.web.texts())}
        tokenizer = Tokenizer.train(texts, config.tokenizer.size, config.tokenizer.locations)
    tokenizer, ids = action_tokens.choose_ids(config.action_tokens, tokenizer, config.bins.count)
    actions = action_tokens.ActionTokens(ROBOTS[config.robot].spec, data.robot.statistics(), ids)
    return Encoder(tokenizer, actions, config.prompts, config.sequence)


def make_loader(
    config: RunConfig, sources: tuple[Source, Source], encoder: Encoder, start: int = 0
) -> Loader:
    """Returns the stream of training batches of this process, `start` batches in."""
    share = config.mixture.robot_share
    return Loader(
        sources,
        (share, 1 - share),
        encoder,
        config.loader,
        seed=config.seed,
        start=start,
        process=(jax.process_index(), jax.process_count()),
    )


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
        self.optimizer = make_optimizer(config.optimizer, config.loop.steps, self._abstract)

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

    def create(self, encoder: Encoder) -> TrainState:
        """Initialises the training state on the mesh, a function of the seed."""
        config = self._config.action_tokens

        def build() -> TrainState:
            params = nnx.to_pure_dict(nnx.state(self._build(nnx.Rngs(self._config.seed))))
            embedding = params["decoder"]["embedding"]
            ids = np.asarray(encoder.action_tokens.ids)
            if config.initialization == "smooth":
                width = embedding.shape[1]
                rows = action_tokens.smooth_rows(len(ids), width, self._config.seed)
                params["decoder"]["embedding"] = embedding.at[ids].set(rows.astype(embedding.dtype))
            elif config.initialization == "mean":
                params["decoder"]["embedding"] = embedding.at[ids].set(embedding.mean(axis=0)[None])
            return TrainState.create(params, self.optimizer)

        places = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state())
        return jax.jit(build, out_shardings=places)()

    def _build(self, rngs: nnx.Rngs) -> vlm.VLM:
        return vlm.VLM(self._config.model, self._vocabulary, rngs)


def make_policy(config: RunConfig, encoder: Encoder, model: Model, params: Any) -> Policy:
    """Returns the policy of these parameters, on one device if they are not split over several."""
    if model.mesh.shape["fsdp"] * model.mesh.shape["tensor"] == 1:
        params = jax.device_put(params, jax.local_devices()[0])
    return Policy(
        model.graph,
        params,
        encoder,
        views=tuple(ROBOTS[config.robot].images),
        image_size=config.model.vision.image_size,
        vocabulary=encoder.tokenizer.size,
    )


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
