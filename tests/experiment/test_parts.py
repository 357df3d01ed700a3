import dataclasses
import types

import jax
import numpy as np
import pytest

from vla_jax.actions.bins import BinsConfig
from vla_jax.actions.statistics import Statistics
from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.data.loader import LoaderConfig
from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.experiment import parts
from vla_jax.experiment.config import RunConfig
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.tokens.action_tokens import ActionTokensConfig, smooth_rows
from vla_jax.tokens.fast import FastConfig
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.sequence import SequenceConfig
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
        web={"web": types.SimpleNamespace(written=written, places=True)},
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


def with_chunks(data, steps=4):
    """The fake robot's actions as examples, which wander; and its plans."""
    robot = data.robots["tabletop"]
    low, high = np.array(TABLETOP.spec.low), np.array(TABLETOP.spec.high)
    phase = np.random.default_rng(1).uniform(0, 6, (200, 1, 8))
    wave = np.sin(phase + 0.3 * np.arange(steps)[None, :, None])
    robot.chunks = lambda most: (low + (wave + 1) / 2 * (high - low))[:most].astype(np.float32)
    robot.plans = lambda: ["pick red cube", "pick blue star"]
    return data


FAST = ActionTokensConfig(scheme="fast", fast=FastConfig(size=200))


def test_fast_is_trained_on_the_chunks_and_has_rows_of_its_own():
    config = dataclasses.replace(
        CONFIG,
        action_tokens=FAST,
        sequence=SequenceConfig(suffix=40),
        loader=LoaderConfig(chunk=4),
    )
    data = with_chunks(make_data())
    encoder = parts.make_encoder(config, data)
    tokens = encoder.actions["tabletop"]
    assert encoder.action_token_ids[0] == encoder.tokenizer.size - len(tokens.fast.pieces)
    chunks = data.robots["tabletop"].chunks(5)
    for chunk, string in zip(chunks, tokens.write(chunks), strict=True):
        wide = np.array(tokens.bounds[1]) - np.array(tokens.bounds[0])
        assert (np.abs(tokens.read(string) - chunk) <= 0.06 * wide + 0.5 * (wide == 1)).all()
    short = dataclasses.replace(config, sequence=SequenceConfig(suffix=4))
    with pytest.raises(UserError, match=r"sequence\.suffix"):
        parts.make_encoder(short, data)


def test_plans_are_words_of_the_tokenizer_and_need_slots():
    prompts = PromptsConfig(robot="plain", plan="expert")
    sequence = SequenceConfig(suffix=20, plan=4)
    config = dataclasses.replace(CONFIG, prompts=prompts, sequence=sequence)
    encoder = parts.make_encoder(config, with_chunks(make_data(), 1))
    assert list(map(len, encoder.plan_frame)) == [1, 1]
    tight = dataclasses.replace(config, sequence=SequenceConfig(suffix=14, plan=4))
    with pytest.raises(UserError, match=r"sequence\.suffix.*room for 8 .*found room for 7"):
        parts.make_encoder(tight, with_chunks(make_data(), 1))


def test_overwritten_words_are_told_or_refused(capsys):
    tokens = ActionTokensConfig(rows="last")
    config = dataclasses.replace(CONFIG, bins=BinsConfig(count=30), action_tokens=tokens)
    parts.make_encoder(config, make_data())
    assert "action tokens overwrite tokens that the data uses" in capsys.readouterr().out
    strict = dataclasses.replace(tokens, on_collision="error")
    with pytest.raises(UserError, match="overwrite tokens that the data uses"):
        parts.make_encoder(dataclasses.replace(config, action_tokens=strict), make_data())


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
