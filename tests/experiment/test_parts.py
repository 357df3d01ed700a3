import dataclasses
import types

import jax
import numpy as np
import pytest

from vla_jax.actions.bins import BinsConfig
from vla_jax.actions.statistics import Statistics
from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.experiment import parts
from vla_jax.experiment.config import RunConfig
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.tokens.action_tokens import ActionTokensConfig, smooth_rows
from vla_jax.tokens.tokenizer import TokenizerConfig

CONFIG = RunConfig(
    seed=5,
    bins=BinsConfig(count=16),
    tokenizer=TokenizerConfig(size=300, locations=16),
    model=VLMConfig(
        vision=ViTConfig(image_size=8, patch_size=4, width=8, depth=1, heads=2, mlp=8),
        decoder=DecoderConfig(width=16, depth=1, mlp=8, heads=2, key_heads=1, head_dim=4),
        dtype="float32",
    ),
)


def make_data():
    rng = np.random.default_rng(0)
    actions = rng.uniform(TABLETOP.spec.low, TABLETOP.spec.high, (50, 8))
    return types.SimpleNamespace(
        robots={
            "tabletop": types.SimpleNamespace(
                name="tabletop",
                spec=TABLETOP.spec,
                actions=lambda most: actions[:most],
                texts=lambda: ["pick up the red cube", "pick up the blue star"],
                statistics=lambda: Statistics.of(actions),
                state_statistics=lambda: None,
            )
        },
        web={"web": types.SimpleNamespace(written=written)},
    )


def written(prompts, most=None):
    return {prompts.for_web("what colour is it"), prompts.as_it_is("caption de"), "red", "blue"}


def test_the_encoder_knows_the_words_and_the_statistics_of_the_data():
    encoder = parts.make_encoder(CONFIG, make_data())
    for word in ("pick", "star", "colour", "caption", "robot"):  # the last is of the prompt
        assert len(encoder.tokenizer.encode(word)) == 1
    assert encoder.actions["tabletop"].statistics == (make_data().robots["tabletop"].statistics())
    assert encoder.action_token_ids == tuple(
        encoder.tokenizer.id(f"<loc{k:04d}>") for k in range(16)
    )
    assert encoder.layout == CONFIG.sequence


def test_a_tokenizer_file_takes_the_place_of_training(tmp_path):
    first = parts.make_encoder(CONFIG, make_data())
    first.tokenizer.save(tmp_path / "tokenizer.json")
    path = TokenizerConfig(path=str(tmp_path / "tokenizer.json"))
    data = make_data()
    data.web["web"].written = lambda prompts, most: {"words that would change a training"}
    again = parts.make_encoder(dataclasses.replace(CONFIG, tokenizer=path), data)
    assert again.tokenizer.size == first.tokenizer.size
    assert again.tokenizer.encode("red cube") == first.tokenizer.encode("red cube")


@pytest.mark.parametrize("kind", ["uniform", "quantile", "mu_law"])
def test_bins_lie_where_the_configuration_says(kind):
    config = dataclasses.replace(CONFIG, bins=BinsConfig(kind=kind, count=16))
    tokens = parts.make_encoder(config, make_data()).actions["tabletop"]
    actions = make_data().robots["tabletop"].actions(50)
    used = [len(set(column)) for column in tokens.bins(actions).T]
    assert used[0] == 2
    if kind == "quantile":  # 50 steps; each of the 16 bins holds some
        assert used[1:] == [16] * 7
    if kind == "mu_law":
        assert max(used[1:]) < 16


def test_bins_without_room_are_refused():
    with pytest.raises(UserError, match=r"config\.bins\.count.*at most 16.*found 17"):
        parts.make_encoder(dataclasses.replace(CONFIG, bins=BinsConfig(count=17)), make_data())


@pytest.fixture(scope="module")
def created():
    """States with each kind of initial action rows, the weights split over two devices."""
    encoder = parts.make_encoder(CONFIG, make_data())
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=1, fsdp=2), jax.devices()[:2])
    states = {}
    for kind in ("none", "smooth", "mean"):
        tokens = ActionTokensConfig(initialization=kind)
        config = dataclasses.replace(CONFIG, action_tokens=tokens)
        model = parts.Model(config, encoder.tokenizer.size, mesh)
        states[kind] = model, model.create(encoder)
    return encoder, states


def test_a_new_state_is_placed_as_announced(created):
    _, states = created
    model, state = states["none"]
    abstract = trees.named_leaves(model.abstract_state())
    leaves = trees.named_leaves(state)
    assert leaves.keys() == abstract.keys()
    for name, leaf in leaves.items():
        expected = abstract[name]
        assert (leaf.shape, leaf.dtype) == (expected.shape, expected.dtype), name
        assert leaf.sharding.is_equivalent_to(expected.sharding, leaf.ndim), name
    assert model.size == sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert model.abstract_params().keys() == state.params.keys()
    moments = leaves["optimizer/1/mu/decoder/blocks/query"]
    assert moments.addressable_shards[0].data.shape == (1, 8, 2, 4)


def test_action_rows_start_as_configured_and_nothing_else_differs(created):
    encoder, states = created
    ids = list(encoder.action_token_ids)
    tables = {
        kind: np.asarray(state.params["decoder"]["embedding"])
        for kind, (_, state) in states.items()
    }
    plain = tables["none"]
    np.testing.assert_allclose(tables["smooth"][ids], smooth_rows(16, 16, 5), rtol=1e-6)
    np.testing.assert_allclose(
        tables["mean"][ids], np.broadcast_to(plain.mean(0), (16, 16)), rtol=1e-4, atol=1e-6
    )
    others = np.delete(np.arange(len(plain)), ids)
    for kind in ("smooth", "mean"):
        np.testing.assert_array_equal(tables[kind][others], plain[others])
        for part in ("projector", "vision"):
            jax.tree.map(
                np.testing.assert_array_equal,
                states[kind][1].params[part],
                states["none"][1].params[part],
            )
