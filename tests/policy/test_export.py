"""The exported folder says everything, and PyTorch decodes from it what JAX decodes."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vla_jax.actions.spec import ActionSpec
from vla_jax.actions.statistics import Statistics
from vla_jax.core import config as config_lib
from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models.vlm import VLMConfig
from vla_jax.policy.export import folder, parity


@pytest.fixture(scope="module")
def exported(tiny, observations, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "policy"
    images, instructions = observations
    folder.write(out, tiny.policy, tiny.config, images, instructions)
    return out


def test_all_tokens_equal_those_of_jax(any_built, observe, observations, tmp_path):
    images, instructions = observations
    pixels = np.stack([seen.images for seen in images])
    both = np.concatenate([pixels, pixels[::-1]], axis=1)
    stacked = observe(both[:, : len(any_built.policy.observer.views)])
    folder.write(tmp_path, any_built.policy, any_built.config, stacked, instructions)
    _, tokens = any_built.policy.act_batch(stacked, instructions)
    assert len(np.unique(tokens)) > 10  # Else equality says little.
    assert len(np.unique(tokens, axis=0)) > 20
    parity.check(tmp_path, stacked, instructions, tokens)


@pytest.mark.parametrize(
    "name",
    ["vision/position", "vision/blocks/value_bias", "decoder/blocks/mlp_norm", "projector/bias0"],
)
def test_one_changed_parameter_is_noticed(observations, tmp_path, multi_query, name):
    images, instructions = observations
    folder.write(tmp_path, multi_query.policy, multi_query.config, images, instructions)
    with np.load(tmp_path / "golden.npz") as golden:
        tokens = golden["tokens"]
    tensors = load_file(tmp_path / "model.safetensors")
    noise = np.random.default_rng(0).standard_normal(tensors[name].shape, np.float32)
    save_file(tensors | {name: tensors[name] + noise}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"of 128 tokens differ from JAX.*in frame \d+"):
        parity.check(tmp_path, images[:16], instructions[:16], tokens[:16])


def test_parameters_are_float32_under_their_names(exported, tiny):
    tensors = load_file(exported / "model.safetensors")
    named = trees.named_leaves(jax.device_get(tiny.policy.params))
    assert tensors.keys() == named.keys()
    for name, value in named.items():
        assert tensors[name].dtype == np.float32
        np.testing.assert_array_equal(tensors[name], value)


def test_the_description_gives_back_what_it_describes(exported, tiny):
    found = json.loads((exported / "policy.json").read_text())
    action_tokens = tiny.policy.encoder.actions["tabletop"]
    assert ActionSpec.from_json(found["action_spec"]) == action_tokens.spec
    assert Statistics.from_json(found["statistics"]) == action_tokens.statistics
    assert tuple(found["action_token_ids"]) == action_tokens.ids
    assert found["model"].pop("vocabulary") == tiny.policy.encoder.tokenizer.size
    assert config_lib.from_json(VLMConfig, found["model"]) == tiny.config
    assert found["format_version"] == 1


def test_golden_frames_hold_what_jax_decoded(exported, tiny, observe):
    with np.load(exported / "golden.npz") as golden:
        values, tokens = tiny.policy.act_batch(
            observe(golden["images"]), golden["instructions"].tolist()
        )
        np.testing.assert_array_equal(golden["tokens"], tokens)
        np.testing.assert_array_equal(golden["values"], values)
        for text, row, length in zip(
            golden["instructions"], golden["prefix"], golden["prefix_length"], strict=True
        ):
            expected, count = tiny.policy.encoder.prefix(str(text), robot=True)
            np.testing.assert_array_equal(row, expected)
            assert length == count


def test_the_folder_can_be_read_by_others(exported):
    modes = {path.stat().st_mode & 0o777 for path in exported.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_nothing_is_overwritten(tiny, observations, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    images, instructions = observations
    with pytest.raises(UserError, match="new or empty directory"):
        folder.write(out, tiny.policy, tiny.config, images[:1], instructions[:1])
    assert len(list(tmp_path.rglob("*"))) == (1 if kind == "file" else 2)


def test_a_file_on_the_way_is_named(tiny, observations, tmp_path):
    (tmp_path / "file").write_text("mine")
    images, instructions = observations
    with pytest.raises(UserError, match="a file on the way there"):
        folder.write(
            tmp_path / "file" / "out", tiny.policy, tiny.config, images[:1], instructions[:1]
        )


def test_another_format_version_is_refused(exported, tmp_path):
    description = json.loads((exported / "policy.json").read_text())
    (tmp_path / "policy.json").write_text(json.dumps(description | {"format_version": 2}))
    program = parity.load_program(exported)
    with pytest.raises(ValueError, match="expected format 1"):
        program.TorchPolicy.load(tmp_path)


def test_a_computation_in_bfloat16_is_exported_as_float32(tiny, exported):
    half = dataclasses.replace(tiny.config, dtype="bfloat16")
    assert folder.describe(tiny.policy, half)["model"]["dtype"] == "bfloat16"
    tensors = load_file(exported / "model.safetensors")
    assert {value.dtype for value in tensors.values()} == {np.dtype(np.float32)}
