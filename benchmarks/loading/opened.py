"""The two datasets opened by this package: indexes, sources, encoder, loader."""

import itertools
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from loading.datasets import DATASETS, LIBERO, Dataset
from loading.measure import BATCH, CHUNK, SIDE
from vla_jax.core.batch import Batch
from vla_jax.data import indexing
from vla_jax.data.augment import AugmentConfig
from vla_jax.data.blocks import BlocksConfig
from vla_jax.data.episodes import Episodes
from vla_jax.data.frame_index import FrameIndex
from vla_jax.data.loader import Loader, LoaderConfig
from vla_jax.data.mixture import MixtureConfig, RobotConfig
from vla_jax.tokens import action_tokens
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.sequence import SequenceConfig
from vla_jax.tokens.tokenizer import Tokenizer

THREADS = os.cpu_count() or 1
_BINS = 256


def wanted(dataset: Dataset) -> indexing.Wanted:
    """Returns what the index of a dataset has to hold."""
    robot = dataset.robot
    return indexing.Wanted(
        images=tuple(robot.images.values()), arrays=robot.arrays, texts=robot.instruction
    )


def index(root: pathlib.Path, dataset: Dataset) -> FrameIndex:
    """Opens the index of a dataset; makes it first where there is none."""
    return indexing.ensure(dataset.directory(root), "train", wanted(dataset))


def episodes(
    frames: FrameIndex,
    dataset: Dataset,
    *,
    name: str | None = None,
    chosen: range | None = None,
    blocks: BlocksConfig | None = None,
) -> Episodes:
    """Opens a dataset, or some of its episodes, as a source."""
    return Episodes(
        frames,
        dataset.robot,
        name=name,
        part="all",
        chunk=CHUNK,
        episodes=chosen,
        blocks=blocks,
    )


def sources(root: pathlib.Path, blocks: BlocksConfig | None = None) -> tuple[Episodes, ...]:
    """Opens the two datasets as sources."""
    return tuple(episodes(index(root, each), each, blocks=blocks) for each in DATASETS)


def slices(root: pathlib.Path, count: int) -> tuple[Episodes, ...]:
    """Cuts LIBERO's episodes into sources of about the same size."""
    edges = np.linspace(0, LIBERO.episodes, count + 1).astype(int).tolist()
    frames = index(root, LIBERO)
    return tuple(
        episodes(frames, LIBERO, name=f"slice_{k:02d}", chosen=range(*edge))
        for k, edge in enumerate(itertools.pairwise(edges))
    )


def encoder(opened: Sequence[Episodes]) -> Encoder:
    """Makes an encoder with a tokenizer of the sources' texts."""
    prompts = PromptsConfig()
    texts = {prompts.for_robot(text) for source in opened for text in source.texts()}
    tokenizer = Tokenizer.train(texts, 1024, _BINS)
    tokenizer, ids = action_tokens.choose_ids(action_tokens.ActionTokensConfig(), tokenizer, _BINS)
    actions = {
        source.name: action_tokens.ActionTokens(source.spec, source.statistics(), ids)
        for source in opened
    }
    layout = SequenceConfig(prefix=48, suffix=CHUNK * 7 + 1)
    return Encoder(tokenizer, actions, prompts, layout, chunk=CHUNK)


def loader(
    opened: Sequence[Episodes], coding: Encoder, augment: AugmentConfig, *, prefetch: int = 2
) -> Loader:
    """Opens the loader that is measured, with a thread per core."""
    weights = {source.name: RobotConfig(weight=1.0) for source in opened}
    mixture = MixtureConfig(name=None, robots=weights, web={}, robot_share=1.0, weights="absolute")
    config = LoaderConfig(
        batch_size=BATCH,
        threads=THREADS,
        prefetch=prefetch,
        chunk=CHUNK,
        augment=augment,
    )
    return Loader(opened, mixture, coding, config, image_size=SIDE, seed=0)


def rows(batch: Batch) -> int:
    """Returns the examples of a batch."""
    return len(batch.images)
