"""The parts of a run, built from its configuration: encoder, loader, policies."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from vla_jax.actions import bins
from vla_jax.actions.bins import Bins, BinsConfig
from vla_jax.actions.normalize import Normalizer
from vla_jax.core.errors import UserError
from vla_jax.data import ledger
from vla_jax.data.episodes import Episodes
from vla_jax.data.loader import Loader
from vla_jax.data.source import Source
from vla_jax.experiment import flaws, pretraining, sources
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.flaws import MOST_TEXTS
from vla_jax.experiment.model import Model
from vla_jax.experiment.pretraining import Start
from vla_jax.experiment.sources import Data
from vla_jax.policy.observation import Observer
from vla_jax.policy.policy import Policy
from vla_jax.runtime import memory, progress
from vla_jax.tokens import action_tokens, collisions, grammar
from vla_jax.tokens.action_tokens import ActionTokens
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.fast import Fast
from vla_jax.tokens.fast_tokens import FastTokens
from vla_jax.tokens.prompts import MARKER, OPENING
from vla_jax.tokens.tokenizer import Tokenizer

_MOST_STEPS = 1_000_000  # whose actions say where quantiles lie
_MOST_CHUNKS = 20_000  # of each robot, that FAST is trained on
_NAMED = 8  # skipped items that are printed


def make_encoder(config: RunConfig, data: Data, weights: Start | None = None) -> Encoder:
    """Trains or loads the tokenizer, takes the statistics, chooses the action ids.

    Raises:
      UserError: the vocabulary cannot hold the bins, or is not that of the pretrained `weights`.
    """
    given = None if weights is None else weights.tokenizer
    if config.tokenizer.path is not None:
        given = Tokenizer.load(config.tokenizer.path)
    texts = _texts(config, data, None if given is None else MOST_TEXTS)
    tokenizer = given or _train(config, texts)
    pretraining.check_tokenizer(weights, config, tokenizer)
    tokenizer, actions = _make_actions(config, data, tokenizer, texts)
    states = {name: robot.state_statistics() for name, robot in data.robots.items()}
    encoder = Encoder(
        tokenizer,
        actions,
        config.prompts,
        config.sequence,
        chunk=config.loader.chunk,
        states={name: statistics for name, statistics in states.items() if statistics is not None},
        image_tokens=config.image_tokens,
        rows=pretraining.vocabulary(weights, config),
    )
    if config.prompts.plan != "none" or config.action_tokens.scheme == "fast":
        for name, robot in data.robots.items():
            _check_room(encoder, name, robot)
    return encoder


def _texts(config: RunConfig, data: Data, most: int | None) -> dict[str, set[str]]:
    """Returns what training writes beside actions, by dataset; of the web's examples `most`."""
    prompts = config.prompts
    robots = {
        name: {prompts.for_robot(text) for text in robot.texts()}.union(_plans(config, robot))
        for name, robot in data.robots.items()
    }
    return robots | {name: web.written(prompts, most) for name, web in data.web.items()}


def _plans(config: RunConfig, robot: Episodes) -> list[str]:
    if config.prompts.plan == "none":
        return []
    return [OPENING, MARKER, *robot.plans()]


def _train(config: RunConfig, texts: Mapping[str, set[str]]) -> Tokenizer:
    every = set[str]().union(*texts.values())
    if config.action_tokens.scheme == "integers":
        every |= set(map(str, range(config.bins.largest)))
    return Tokenizer.train(every, config.tokenizer.size, config.tokenizer.locations)


def _make_actions(
    config: RunConfig, data: Data, tokenizer: Tokenizer, texts: Mapping[str, set[str]]
) -> tuple[Tokenizer, dict[str, ActionTokens | FastTokens]]:
    """Chooses the ids of actions, says whose they were, and returns each robot's actions."""
    used = {
        name: collisions.usage(tokenizer, each, places=name in data.web and data.web[name].places)
        for name, each in texts.items()
    }
    everything = sum((Counter(usage.count) for usage in used.values()), Counter[int]())
    fast = _make_fast(config, data) if config.action_tokens.scheme == "fast" else None
    count = config.bins.largest if fast is None else len(fast.pieces)
    tokenizer, ids = action_tokens.choose_ids(config.action_tokens, tokenizer, count, everything)
    found = collisions.find(ids, tokenizer, used)
    if (line := collisions.report(config.action_tokens, found)) is not None:
        progress.note(line)
    return tokenizer, {
        name: ActionTokens(robot.spec, robot.statistics(), ids, make_bins(config.bins, robot))
        if fast is None
        else FastTokens(robot.spec, robot.statistics(), ids, fast)
        for name, robot in data.robots.items()
    }


def _make_fast(config: RunConfig, data: Data) -> Fast:
    """Loads or trains the vocabulary of FAST."""
    settings = config.action_tokens.fast
    if settings.path is not None:
        return Fast.load(settings.path)
    return Fast.train(
        [
            Normalizer(robot.statistics(), robot.spec).normalize(robot.chunks(_MOST_CHUNKS))
            for robot in data.robots.values()
        ],
        settings,
    )


def _check_room(encoder: Encoder, name: str, robot: Episodes) -> None:
    """Makes sure that actions and plans fit the suffix, before training begins.

    Raises:
      UserError: they do not.
    """
    grammar.action(encoder, name)
    frame = [] if encoder.plan_frame is None else [*encoder.plan_frame[0], *encoder.plan_frame[1]]
    lead = len(frame) + (encoder.layout.plan if frame else 0)
    longest = max(map(len, encoder.actions[name].write(robot.chunks(_MOST_CHUNKS))))
    if (needed := lead + longest + 1) > encoder.layout.suffix:
        raise UserError(
            f"config.sequence.suffix is too short for the actions of {name}",
            expected=f"at least {needed} ({longest} tokens of an action"
            + (f", {lead} of its plan" if lead else "")
            + ", and <eos>)",
            found=encoder.layout.suffix,
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
    loader = Loader(
        examples,
        config.mixture,
        encoder,
        config.loader,
        image_size=config.model.vision.image_size,
        state=config.model.state,
        seed=config.seed,
        start=start,
        process=part,
        known=flaws.known(encoder, examples) if config.loader.on_corrupt == "skip" else (),
    )
    if (needed := loader.predicted_ram()) > memory.host():
        raise UserError(
            "config.loader: memory for batches",
            expected=f"at most the {memory.host() / 2**30:,.1f} GiB of this machine",
            found=f"{needed / 2**30:,.1f} GiB",
            fix="Lower config.loader.batch_size, .prefetch, .threads or config.model.vision."
            "image_size",
        )
    return loader


def print_ledger(config: RunConfig, data: Data, encoder: Encoder, loader: Loader) -> dict[str, Any]:
    """Prints shares, epochs and tokens per source, what is left out, and the memory it takes.

    Returns:
      The same as JSON values: `sources`, a `ledger.Entry` each, `left_out`, lines of text, and
      `skipped`, as `ledger.skipped` returns it.
    """
    entries = ledger.entries(
        config.mixture,
        data.sources,
        encoder,
        loader.skipped,
        batch_size=config.loader.batch_size,
        steps=config.loop.steps,
    )
    title = f"mixture over {config.loop.steps:,} steps of {config.loader.batch_size}"
    progress.table(title, ledger.HEADER, [entry.row() for entry in entries])
    left_out = ledger.left_out(data.robots.values())
    for line in left_out:
        progress.note(line)
    for place in (found := ledger.skipped(loader.skipped))["first"][:_NAMED]:
        progress.note(f"skipped {place['place']}: {place['reason']}")
    for kind, count in found["counts"].items():
        progress.note(f"skipped {count:,} bad items of the kind {kind}")
    progress.note(f"loader memory, predicted: {loader.predicted_ram() / 2**20:,.0f} MiB per host")
    return {
        "sources": [dataclasses.asdict(entry) for entry in entries],
        "left_out": left_out,
        "skipped": found,
    }


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
                centre=config.loader.augment.centre,
                state=config.model.state,
                statistics=encoder.states.get(name),
                max_pixels=config.loader.max_pixels,
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
