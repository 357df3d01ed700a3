"""A small generated tabletop, an encoder for it, and a way to write Examples with TensorFlow."""

import importlib
import types

import pytest

from vla_jax.data.episodes import Episodes
from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.data.web.table import WebConfig, open_web
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
def open_episodes(made):
    def open_part(part, held_out=0.25, image_size=SIZE):
        return Episodes(made.robot, TABLETOP, part=part, held_out=held_out, image_size=image_size)

    return open_part


@pytest.fixture(scope="session")
def sources(made, open_episodes):
    """The robot's training part and the training questions."""
    return open_episodes("train"), open_web("web", WebConfig(), directory=made.web)


@pytest.fixture(scope="session")
def encoder(sources):
    robot, web = sources
    prompts = PromptsConfig(robot="plain", web="plain")
    tokenizer = Tokenizer.train([*robot.texts(), *web.texts()], 512, 256)
    tokenizer, ids = choose_ids(ActionTokensConfig(), tokenizer, 256)
    actions = ActionTokens(TABLETOP.spec, robot.statistics(), ids)
    return Encoder(tokenizer, actions, prompts, SequenceConfig(prefix=16, suffix=9))


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
