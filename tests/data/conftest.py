"""A small generated tabletop, made-up sources, and a way to write Examples with TensorFlow."""

import importlib
import types

import cv2
import numpy as np
import pytest

from vla_jax.actions.spec import ActionSpec
from vla_jax.actions.statistics import Statistics
from vla_jax.core.batch import Example
from vla_jax.data import indexing, stream
from vla_jax.data.episodes import Episodes
from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.envs.tabletop import datasets
from vla_jax.envs.tabletop.demonstrations import DemonstrationsConfig
from vla_jax.envs.tabletop.questions import QuestionsConfig
from vla_jax.tokens.action_tokens import ActionTokens, ActionTokensConfig, choose_ids
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.sequence import SequenceConfig
from vla_jax.tokens.tokenizer import Tokenizer

SIZE = 32


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The two version directories: 24 episodes, 40 training and 12 validation questions."""
    config = datasets.DatasetsConfig(
        image_size=SIZE,
        demonstrations=DemonstrationsConfig(episodes=24),
        questions=QuestionsConfig(train=40, validation=12),
    )
    return datasets.ensure(config, tmp_path_factory.mktemp("data"), workers=1)


@pytest.fixture(scope="session")
def tabletop_index(made):
    return indexing.ensure(made.robot)


@pytest.fixture(scope="session")
def open_episodes(tabletop_index):
    """Opens parts of the tabletop's episodes, a quarter of them held out."""

    def open_part(part="train", robot=TABLETOP, **settings):
        return Episodes(tabletop_index, robot, part=part, **{"held_out": 0.25, **settings})

    return open_part


def spec(size):
    """A robot with `size` ranges, each -1..1 in its own unit."""
    return ActionSpec(
        names=tuple(f"d{k}" for k in range(size)),
        units=("metres per step",) * size,
        low=(-1.0,) * size,
        high=(1.0,) * size,
        discrete=(False,) * size,
        frame="base",
        gripper="none",
        control_hz=5.0,
    )


class Made:
    """A source of noise: every number in its examples tells which example it is.

    Actions are i / size in every dimension, the state is its negative; image j of a window is
    constant where `flat` says so.
    """

    episodes, ram = 1, 0

    def __init__(self, name, kind, size, *, dimensions=3, states=0, shape=(40, 48), views=1):
        self.name, self.kind, self.size = name, kind, size
        self.spec = spec(dimensions) if kind == "robot" else None
        self.state_size, self._shape, self._views = states, shape, views
        self.fingerprint = f"{name} of {size}"
        self.damaged, self.reads = set(), []

    def __len__(self):
        return self.size

    def image(self, i, view=0):
        rng = np.random.default_rng([i, view, self.size])
        small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        return cv2.resize(small, self._shape[::-1], interpolation=cv2.INTER_CUBIC)

    def encoded(self, i, view=0):
        data = cv2.imencode(".jpg", self.image(i, view)[..., ::-1])[1].tobytes()
        return data[: len(data) // 2] if i in self.damaged else data

    def example(self, i, draw=0):
        self.reads.append(i)
        views = ("primary", "wrist")[: self._views]
        common = {
            "images": {view: (self.encoded(i, k),) for k, view in enumerate(views)},
            "prefix": f"{'pick' if self.kind == 'robot' else 'name'} {i % 7}",
            "dataset": self.name,
            "episode": i,
        }
        if self.kind == "web":
            return Example(suffix=("yes", "no")[draw % 2], **common)
        action = np.full((1, self.spec.size), i / self.size, np.float32)
        state = np.full(self.state_size, -i / self.size, np.float32) if self.state_size else None
        return Example(action=action, action_mask=np.array([True]), state=state, **common)

    def place(self, i):
        return f"{self.name} shard s-0 episode {i} step 0"

    def shuffle(self, start, count, seed):
        return stream.shuffled(self.size, start, count, seed)

    def statistics(self):
        if self.kind == "robot":
            return Statistics.of(np.array([[-1.0] * self.spec.size, [1.0] * self.spec.size]))
        return None

    def state_statistics(self):
        if self.state_size:
            return Statistics.of(np.array([[-1.0] * self.state_size, [1.0] * self.state_size]))
        return None

    def texts(self):
        return sorted({self.example(i).prefix for i in range(self.size)} | {"yes", "no"})


@pytest.fixture(scope="session")
def make_source():
    return Made


@pytest.fixture(scope="session")
def make_encoder():
    """Makes an encoder for sources."""

    def make(sources, **layout):
        texts = [text for source in sources for text in source.texts()]
        tokenizer = Tokenizer.train(texts, 400, 64)
        tokenizer, ids = choose_ids(ActionTokensConfig(), tokenizer, 64)
        actions = {
            source.name: ActionTokens(source.spec, source.statistics(), ids)
            for source in sources
            if source.spec is not None
        }
        prompts = PromptsConfig(robot="plain", web="plain")
        return Encoder(
            tokenizer, actions, prompts, SequenceConfig(**{"prefix": 12, "suffix": 9, **layout})
        )

    return make


@pytest.fixture(scope="session")
def tensorflow():
    """What these tests need of TensorFlow, imported once and late."""
    tf = importlib.import_module("tensorflow")

    def example(**features):
        lists = {
            bytes: lambda v: tf.train.Feature(bytes_list=tf.train.BytesList(value=v)),
            float: lambda v: tf.train.Feature(float_list=tf.train.FloatList(value=v)),
            int: lambda v: tf.train.Feature(int64_list=tf.train.Int64List(value=v)),
        }
        made = {name: lists[kind](values) for name, (kind, values) in features.items()}
        return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()

    def write(path, records):
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)

    return types.SimpleNamespace(tf=tf, example=example, write=write)
