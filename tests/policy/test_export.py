"""The exported folder says everything, and its own runtime computes from it what JAX computes."""

import copy
import json
import shutil

import exported_manifest
import jax
import jax_policy
import numpy as np
import pytest
import selftest
from safetensors.numpy import load_file, save_file
from small_policies import CONFIGS, OTHERS, as_observations, build_policy, export, look_around

from vla_jax.actions.spec import ActionSpec
from vla_jax.actions.statistics import Statistics
from vla_jax.core import config as config_lib
from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.policy.export import folder
from vla_jax.policy.export.format import Options

pytest.importorskip("torch")
import torch_policy


@pytest.fixture(scope="module")
def exported(tiny, observations, tmp_path_factory):
    return export(tiny, tmp_path_factory.mktemp("export") / "policy", observations)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A policy whose folder tests may change, for each makes its own copy."""
    built = build_policy(CONFIGS["multi_query"], prompt="openvla", seed=2, prefix=80)
    return export(built, tmp_path_factory.mktemp("others") / "policy", look_around(built))


def measured(out, load=torch_policy.TorchPolicy.load):
    return selftest.run(load, out, "cpu")["measured"]


def test_every_model_computes_in_pytorch_what_it_computes_in_jax(any_built, tmp_path):
    out = export(any_built, tmp_path / "policy", look_around(any_built))
    with np.load(out / "golden.npz") as golden:
        logits = golden["logits"]
        # Else equality says little: what is seen decides, not the position alone.
        assert logits.std(axis=0).mean() > 0.1 * logits.std()
        assert len(np.unique(golden["tokens"], axis=0)) > 2
    found = measured(out)
    assert found["float32"]["failures"] == []
    assert found["float32"]["prompts"] == 64


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_rounded_weights_decode_the_same_tokens_in_float32(multi_query, tmp_path, dtype):
    out = export(multi_query, tmp_path / "policy", look_around(multi_query), dtype=dtype)
    tensors = load_file(out / "model.safetensors")
    assert {value.dtype.name for value in tensors.values()} == {dtype}
    found = measured(out)
    assert found["float32"]["failures"] == found[dtype]["failures"] == []
    assert found[dtype]["logits_rms"] > 0
    assert found[dtype]["choices"] > 0.9


@pytest.mark.parametrize("name", ["pyramid", "palme", "planner"])
def test_stablehlo_computes_what_the_model_does(name, tiny, tmp_path):
    built = tiny if name == "pyramid" else OTHERS[name]()
    out = export(built, tmp_path / "policy", look_around(built), form="jax")
    found = measured(out, jax_policy.JaxPolicy.load)
    assert found["float32"]["failures"] == []
    program = (out / "decode.float32.stablehlo").read_bytes()
    loaded = jax.export.deserialize(bytearray(program))
    assert loaded.platforms == ("cpu", "cuda", "tpu")
    with pytest.raises(ValueError, match="no program for it"):
        jax_policy.JaxPolicy.load(out, dtype="bfloat16")
    with pytest.raises(ValueError, match="which PyTorch does not run"):
        torch_policy.TorchPolicy.load(out)


@pytest.mark.parametrize(
    "name",
    ["vision/position", "vision/blocks/value_bias", "decoder/blocks/mlp_norm", "projector/bias0"],
)
def test_one_changed_parameter_is_noticed(others, tmp_path, name):
    out = shutil.copytree(others, tmp_path / "policy")
    tensors = load_file(out / "model.safetensors")
    noise = np.random.default_rng(0).standard_normal(tensors[name].shape, np.float32)
    save_file(tensors | {name: tensors[name] + 1e-3 * noise}, out / "model.safetensors")
    exported_manifest.accept(out)
    assert any("logits_max" in line for line in measured(out)["float32"]["failures"])


@pytest.mark.parametrize("form", ["torch", "hf_paligemma"])
def test_sharded_parameters_make_the_same_files(multi_query, tmp_path, form):
    policy = copy.copy(multi_query.policy)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("fsdp",))

    def split(leaf):
        fits = [axis for axis, size in enumerate(leaf.shape) if size % 8 == 0]
        parts = ["fsdp" if fits and axis == fits[-1] else None for axis in range(leaf.ndim)]
        place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*parts))
        return jax.device_put(leaf, place)

    policy.params = jax.tree.map(split, policy.params)
    files = []
    for name, each in (("whole", multi_query.policy), ("split", policy)):
        (tmp_path / name).mkdir()
        kind = folder.FORMATS[form]
        kind.write(tmp_path / name, each, multi_query.config, Options())
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1]


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
    assert (found["format"], found["dtype"], found["robot"]) == ("torch", "float32", "tabletop")


def test_golden_frames_hold_what_the_policy_does(exported, tiny, observations):
    seen, instructions = observations
    values, tokens = tiny.policy.act_batch(seen, instructions)
    with np.load(exported / "golden.npz") as golden:
        np.testing.assert_array_equal(golden["images"], np.stack([s.images for s in seen]))
        np.testing.assert_array_equal(golden["tokens"], tokens)
        np.testing.assert_array_equal(golden["values"], values)
        ids, logits = golden["logit_ids"], golden["logits"]
        legal = tiny.policy.action_tokens.ids
        # The kept logits are those that decided.
        np.testing.assert_array_equal(
            ids[np.isin(ids, legal)][logits[:, 1:, np.isin(ids, legal)].argmax(-1)], tokens[:, 1:]
        )
        assert len(np.setdiff1d(ids, legal)) > 20


@pytest.mark.parametrize("kind", ["directory", "file", "half of another"])
def test_nothing_is_overwritten(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        place = out if kind == "directory" else tmp_path / "out.incomplete"
        place.mkdir()
        (place / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="new or empty directory"):
        folder.check_place(out)


def test_what_an_export_left_behind_is_written_over(tiny, observations, tmp_path):
    left = tmp_path / "out.incomplete"
    left.mkdir()
    folder.mark(left, "a token differs")
    seen, instructions = observations
    out = export(tiny, tmp_path / "out", (seen[:2], instructions[:2]))
    assert not left.exists()
    assert not (out / "INCOMPLETE").exists()


def test_a_file_on_the_way_is_named(tiny, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="a file on the way there"):
        export(tiny, tmp_path / "file" / "out", (as_observations([]), []))


def test_another_format_version_is_refused(exported, tmp_path):
    description = json.loads((exported / "policy.json").read_text())
    (tmp_path / "policy.json").write_text(json.dumps(description | {"format_version": 2}))
    with pytest.raises(ValueError, match="expected format 6"):
        torch_policy.TorchPolicy.load(tmp_path)
