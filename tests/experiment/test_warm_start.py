"""A run that starts from the parameters of another."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from vla_jax.actions.bins import BinsConfig
from vla_jax.actions.statistics import Statistics
from vla_jax.cli import train
from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.experiment import frozen, parts, warm_start
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.model import Model
from vla_jax.experiment.workdir import Workdir
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.lora import LoraConfig
from vla_jax.models.pretrained import PretrainedConfig
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.runtime.checkpoint import CheckpointConfig, Checkpoints
from vla_jax.tokens.action_tokens import ActionTokensConfig
from vla_jax.tokens.tokenizer import Tokenizer, TokenizerConfig
from vla_jax.train.strategy import StrategyConfig

ACTIONS = np.random.default_rng(0).uniform(TABLETOP.spec.low, TABLETOP.spec.high, (50, 8))
ROBOT = types.SimpleNamespace(
    name="tabletop",
    spec=TABLETOP.spec,
    statistics=lambda: Statistics.of(ACTIONS.astype(np.float32)),
    actions=lambda most: ACTIONS[:most].astype(np.float32),
    state_statistics=lambda: None,
    texts=lambda: ["pick up the red cube"],
)
DATA = types.SimpleNamespace(robots={"tabletop": ROBOT}, web={})
MODEL = VLMConfig(
    vision=ViTConfig(image_size=8, patch_size=4, width=16, depth=1, heads=2, mlp=16),
    decoder=DecoderConfig(width=16, depth=2, mlp=16, heads=2, key_heads=1, head_dim=8),
    dtype="float32",
)


def begin(config, fsdp=1):
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=1, fsdp=fsdp), jax.devices()[:fsdp])
    weights = warm_start.open_weights(config)
    encoder = parts.make_encoder(config, DATA, weights)
    model = Model(config, encoder.vocabulary, mesh)
    return encoder, model, model.create(encoder, weights)


def finish(config, folder):
    """Leaves a workdir with one checkpoint of parameters that training has moved."""
    encoder, model, state = begin(config)
    moved = jax.tree.map(lambda x: x + 0.01 * jax.random.normal(jax.random.key(1), x.shape), state)
    state = dataclasses.replace(state, params=moved.params)
    workdir = Workdir(folder)
    workdir.claim(config)
    workdir.save_encoder(encoder)
    frozen.save(workdir.frozen, state.frozen)
    with Checkpoints(workdir.checkpoints, CheckpointConfig()) as checkpoints:
        checkpoints.save(3, state.saved(), {"seconds": 1.0})
    return trees.named_leaves(model.merged(state.params, state.frozen)), encoder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokenizer.json"
    Tokenizer.train(["pick up the red cube"], 300, 16).save(path)
    return RunConfig(
        model=MODEL,
        tokenizer=TokenizerConfig(path=str(path)),
        bins=BinsConfig(count=16),
        action_tokens=ActionTokensConfig(initialization="smooth"),
    )


@pytest.fixture(scope="module", params=["full", "lora"])
def finished(request, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / request.param
    strategy = StrategyConfig(kind=request.param, lora=LoraConfig(rank=2))
    return folder, *finish(dataclasses.replace(config, strategy=strategy), folder)


def test_everything_goes_over_to_another_mesh_and_strategy(config, finished):
    folder, expected, before = finished
    # No tokenizer is named: it comes along, and the rows of actions stay as they were trained.
    config = dataclasses.replace(
        config,
        pretrained=PretrainedConfig(path=str(folder)),
        tokenizer=TokenizerConfig(),
        strategy=StrategyConfig(kind="frozen_vision"),
    )
    encoder, model, state = begin(config, fsdp=2)
    assert encoder.action_token_ids == before.action_token_ids
    found = trees.named_leaves(model.merged(state.params, state.frozen))
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)
    assert len(state.params["decoder"]["embedding"].sharding.device_set) == 2


def test_a_part_goes_over_the_rest_is_new(config, finished):
    folder, expected, _ = finished
    begun = PretrainedConfig(path=str(folder), parts="vision")
    _, _, state = begin(dataclasses.replace(config, pretrained=begun, seed=1))
    for name, leaf in trees.named_leaves(state.params).items():
        constant = np.ptp(expected[name]) == 0
        same = np.array_equal(leaf, expected[name])
        assert same == name.startswith("vision/") or constant, name


def test_another_model_is_refused(config, finished):
    decoder = dataclasses.replace(MODEL.decoder, depth=3)
    other = dataclasses.replace(
        config,
        pretrained=PretrainedConfig(path=str(finished[0])),
        model=dataclasses.replace(MODEL, decoder=decoder, remat="full"),
    )
    with pytest.raises(UserError, match=r"is not the model of .*decoder.depth: 2 -> 3\. Take"):
        warm_start.open_weights(other)


def test_an_unfinished_run_is_refused(config, tmp_path):
    workdir = Workdir(tmp_path / "run")
    workdir.claim(config)
    workdir.checkpoints.mkdir()
    begun = dataclasses.replace(config, pretrained=PretrainedConfig(path=str(workdir.path)))
    with pytest.raises(UserError, match="expected a run with a checkpoint"):
        warm_start.open_weights(begun)


def test_from_is_the_path_of_the_configuration():
    flags = ["--config=configs/tabletop.py", "--workdir=w"]
    assert train.parse([*flags, "--from=runs/web"])[0].pretrained.path == "runs/web"
    both = [*flags, "--from=a", "--config.pretrained.path=b"]
    with pytest.raises(
        UserError, match=r"--from and config\.pretrained\.path: expected b, found a"
    ):
        train.parse(both)
