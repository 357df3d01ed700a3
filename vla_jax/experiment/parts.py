"""The parts of a run, built from its configuration: encoder, loader, policies."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from vla_jax.actions import bins
from vla_jax.actions.bins import Bins, BinsConfig
from vla_jax.data import ledger
from vla_jax.data.episodes import Episodes
from vla_jax.data.loader import Loader
from vla_jax.data.source import Source
from vla_jax.experiment import pretraining, sources
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.model import Model
from vla_jax.experiment.pretraining import Start
from vla_jax.experiment.sources import Data
from vla_jax.policy.observation import Observer
from vla_jax.policy.policy import Policy
from vla_jax.runtime import progress
from vla_jax.tokens import action_tokens
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.tokenizer import Tokenizer

_MOST_STEPS = 1_000_000  # whose actions say where quantiles lie


def make_encoder(config: RunConfig, data: Data, weights: Start | None = None) -> Encoder:
    """Trains or loads the tokenizer, takes the statistics, chooses the action ids.

    Raises:
      UserError: the vocabulary cannot hold the bins, or is not that of the pretrained `weights`.
    """
    if config.tokenizer.path is not None:
        tokenizer = Tokenizer.load(config.tokenizer.path)
    elif weights is not None and weights.tokenizer is not None:
        tokenizer = weights.tokenizer
    else:
        prompts = config.prompts
        texts = {
            prompts.for_robot(text) for robot in data.robots.values() for text in robot.texts()
        }
        if config.action_tokens.scheme == "integers":
            texts |= set(map(str, range(config.bins.largest)))
        texts = texts.union(*(web.written(prompts) for web in data.web.values()))
        tokenizer = Tokenizer.train(texts, config.tokenizer.size, config.tokenizer.locations)
    pretraining.check_tokenizer(weights, config, tokenizer)
    tokenizer, ids = action_tokens.choose_ids(config.action_tokens, tokenizer, config.bins.largest)
    actions = {
        name: action_tokens.ActionTokens(
            robot.spec, robot.statistics(), ids, make_bins(config.bins, robot)
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


def make_bins(config: BinsConfig, robot: Episodes) -> Bins:
    """Cuts the ranges of a robot's actions, by its training frames where these matter.

    Raises:
      UserError: the configuration counts other dimensions.
    """
    scale = action_tokens.normalizer(robot.statistics(), robot.spec, config.convention)
    values = scale.normalize(robot.actions(_MOST_STEPS))
    return bins.make(config, values, robot.spec.discrete, robot.name)


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


def print_ledger(config: RunConfig, data: Data, encoder: Encoder, loader: Loader) -> dict[str, Any]:
    """Prints shares, epochs and tokens per source, what is left out, and the memory it takes.

    Returns:
      The same as JSON values: `sources`, a `ledger.Entry` each, and `left_out`, lines of text.
    """
    entries = ledger.entries(
        config.mixture,
        data.sources,
        encoder,
        batch_size=config.loader.batch_size,
        steps=config.loop.steps,
    )
    title = f"mixture over {config.loop.steps:,} steps of {config.loader.batch_size}"
    progress.table(title, ledger.HEADER, [entry.row() for entry in entries])
    left_out = ledger.left_out(data.robots.values())
    for line in left_out:
        progress.note(line)
    progress.note(f"loader memory, predicted: {loader.predicted_ram() / 2**20:,.0f} MiB per host")
    return {"sources": [dataclasses.asdict(entry) for entry in entries], "left_out": left_out}


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
