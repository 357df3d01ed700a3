"""A run that starts from the authors' tiny PaliGemma."""

import dataclasses
import pathlib
import types

import jax
import numpy as np
import pytest
import tokenizers

from vla_jax.actions.bins import BinsConfig
from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.experiment import parts, pretraining
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import Workdir
from vla_jax.models import pretrained
from vla_jax.models.pretrained import PretrainedConfig
from vla_jax.models.vit import ViTConfig
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.tokens.action_tokens import ActionTokensConfig
from vla_jax.tokens.tokenizer import Tokenizer, TokenizerConfig

PATH = str(pathlib.Path(__file__).parents[1] / "models" / "data" / "pg1.npz")
ROWS = 512


@pytest.fixture(scope="module")
def released():
    return pretrained.load(PATH)


def padded(size):
    """A tokenizer of just so many ids."""
    small = Tokenizer.train(["pick up the red cube robot"], 300, 16)
    return small.extended([f"<unused{k}>" for k in range(size - small.size)])


@pytest.fixture
def make(tmp_path, released):
    """Returns the run's configuration with a tokenizer of `size` ids."""

    def config(size=500, parts="all", **changes):
        padded(size).save(tmp_path / "tokenizer.json")
        values = {
            "model": released.config,
            "pretrained": PretrainedConfig(path=PATH, parts=parts),
            "tokenizer": TokenizerConfig(path=str(tmp_path / "tokenizer.json")),
            "bins": BinsConfig(count=16),
        }
        return RunConfig(**values | changes)

    return config


# No dataset at all: the tokens alone matter.
DATA = types.SimpleNamespace(robots={}, web={})


def start(config):
    weights = pretraining.open_weights(config)
    encoder = parts.make_encoder(config, DATA, weights)
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=1, fsdp=2), jax.devices()[:2])
    model = parts.Model(config, encoder.vocabulary, mesh)
    return encoder, model, model.create(encoder, weights)


def test_training_starts_from_the_checkpoint(make, released, tmp_path):
    encoder, model, state = start(make())
    assert (encoder.tokenizer.size, encoder.vocabulary) == (500, ROWS)
    expected = trees.named_leaves(released.params)
    found, places = trees.named_leaves(state.params), trees.named_leaves(model.abstract_params())
    assert found.keys() == expected.keys()
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)
        assert leaf.sharding.is_equivalent_to(places[name].sharding, leaf.ndim), name
    # How many rows there are is remembered with the tokens.
    workdir = Workdir(tmp_path / "run")
    workdir.path.mkdir()
    workdir.save_encoder(encoder)
    again = workdir.load_encoder()
    assert again is not None
    assert again.vocabulary == ROWS


def test_a_part_starts_from_the_checkpoint_the_rest_from_the_seed(make, released):
    config = make(parts="vision", tokenizer=TokenizerConfig(size=300, locations=16))
    encoder, _, state = start(config)
    assert encoder.vocabulary == encoder.tokenizer.size
    expected = trees.named_leaves(released.params)
    for name, leaf in trees.named_leaves(state.params).items():
        assert np.array_equal(leaf, expected[name]) == name.startswith("vision/"), name


def test_what_no_released_model_has_starts_from_the_seed(make, released):
    config = make(model=dataclasses.replace(released.config, state=3))
    _, _, state = start(config)
    assert state.params["state"]["up"].std() > 0.1
    np.testing.assert_array_equal(
        state.params["decoder"]["embedding"], released.params["decoder"]["embedding"]
    )


def test_rows_of_actions_are_added_to_the_embedding(make, released):
    scheme = ActionTokensConfig(scheme="extend", initialization="mean")
    config = make(size=ROWS, action_tokens=scheme)
    weights = pretraining.open_weights(config)
    model = parts.Model(
        config, ROWS + 16, mesh_lib.make_mesh(mesh_lib.MeshConfig(), jax.devices()[:1])
    )

    class Encoder:
        action_token_ids = tuple(range(ROWS, ROWS + 16))

    table = np.asarray(model.create(Encoder(), weights).params["decoder"]["embedding"])
    old = np.asarray(released.params["decoder"]["embedding"])
    np.testing.assert_array_equal(table[:ROWS], old)
    # All new rows stand at one point, near the mean of the old ones.
    np.testing.assert_array_equal(table[ROWS:], np.repeat(table[ROWS:][:1], 16, axis=0))
    assert np.abs(table[ROWS] - old.mean(0)).max() < 0.05


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (ROWS + 1, "expected at most 512 ids and not many fewer, found 513 ids"),
        (400, "found 400 ids. Take the tokenizer.json of the checkpoint"),
    ],
)
def test_the_tokenizer_of_another_model_is_refused(make, size, message):
    config = make(size=size)
    with pytest.raises(UserError, match=message):
        parts.make_encoder(config, DATA, pretraining.open_weights(config))


def test_a_tokenizer_trained_for_the_run_is_refused(make):
    config = make(tokenizer=TokenizerConfig(size=300, locations=16))
    with pytest.raises(UserError, match=r"config\.tokenizer\.path.*trained on this run's texts"):
        parts.make_encoder(config, DATA, pretraining.open_weights(config))


def test_another_model_is_refused_before_anything_is_read(make, released):
    vision = ViTConfig(image_size=28, width=48, depth=2, heads=4, mlp=100)
    config = make(model=dataclasses.replace(released.config, vision=vision))
    with pytest.raises(UserError, match=r"is not config\.model: config\.vision\.depth: 3 -> 2"):
        pretraining.open_weights(config)
    # Its decoder is not asked.
    text = dataclasses.replace(config, pretrained=PretrainedConfig(path=PATH, parts="text"))
    assert pretraining.open_weights(text) is not None


def test_the_padded_tokenizer_is_one(make):
    assert tokenizers.Tokenizer.from_file(make().tokenizer.path).get_vocab_size() == 500
