"""Released folders of OpenVLA-OFT: what they say, what they may not, and the way back."""

import dataclasses
import json
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest

from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models import variants
from vla_jax.models.pretrained import oft, oft_writer, torch_file
from vla_jax.models.pretrained.headers import tensors_of
from vla_jax.models.pretrained.oft import OFTWeights

SEED = pathlib.Path(__file__).parents[2] / "policies/data/oft/seedA"
HEAD = "action_head--150000_checkpoint.pt"
PROPRIO = "proprio_projector--150000_checkpoint.pt"
VISION = "vision_backbone--150000_checkpoint.pt"
KEY = "libero_spatial_no_noops"


def given():
    tiny, big = json.loads((SEED / "config.json").read_text())["tiny_vision"], variants.OPENVLA_7B
    vision, fused = (
        dataclasses.replace(tower, width=tiny[name]["width"], heads=tiny[name]["heads"])
        for tower, name in ((big.vision, "dino"), (big.fused_vision, "siglip"))
    )
    return dataclasses.replace(big, vision=vision, fused_vision=fused)


def opened(path, chunk=4, **more):
    return OFTWeights(path, chunk=chunk, given=given(), **more)


@pytest.fixture
def folder(tmp_path):
    """Returns a copy of a release: model and the files of a variant side by side."""

    def make(variant):
        path = tmp_path / variant
        path.mkdir()
        for name in ("config.json", "model.safetensors", oft.STATISTICS):
            shutil.copy(SEED / name, path)
        for file in (SEED / variant).glob("*.pt"):
            shutil.copy(file, path)
        return path

    return make


def rewrite(path, change):
    """Changes the arrays of a .pt file."""
    values = {name: tensor.read().copy() for name, tensor in tensors_of(str(path)).items()}
    change(values)
    torch_file.save(path, values)


def edit(path, change):
    """Changes a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("variant", ["l1", "film"])
def test_what_a_folder_says(folder, variant):
    found = opened(folder(variant)).oft
    assert (found.chunk, found.dims, found.vlm.state) == (4, 7, 8)
    assert found.film == (variant == "film")


def parameters(weights, dtype="float32"):
    config = dataclasses.replace(weights.config, dtype=dtype, param_dtype=dtype)
    return weights.read(config, weights.leaves(config))


@pytest.mark.parametrize("variant", ["l1", "film"])
def test_there_and_back(folder, variant, tmp_path):
    """What is written holds the same parameters, and the same names, as the authors' files."""
    path = folder(variant)
    weights = opened(path)
    before = parameters(weights)
    written = shutil.copytree(path, tmp_path / "written", ignore=shutil.ignore_patterns("*.pt"))
    edit(written / "config.json", lambda c: c.update(oft.note(4, "q99")))
    # The merged towers are not of bfloat16.
    dtype = np.float32 if variant == "film" else ml_dtypes.bfloat16
    oft_writer.save_parts(
        written, weights.oft, trees.nest(before), step=150000, dtype=dtype, rank=4
    )
    again = opened(written, chunk=None)
    after = parameters(again)
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)
    assert again.statistics()[0].size == 7  # by the note
    for file in path.glob("*.pt"):
        theirs, ours = (tensors_of(str(f)) for f in (file, written / file.name))
        shapes = {name: t.shape for name, t in theirs.items()}
        assert {name: t.shape for name, t in ours.items()} == shapes
        if dtype != np.float32 and file.name != VISION:
            for name, tensor in theirs.items():
                assert ours[name].kind == tensor.kind
                np.testing.assert_array_equal(ours[name].read(), tensor.read())


def test_pytorch_reads_the_files(folder, tmp_path):
    torch = pytest.importorskip("torch")
    path = folder("l1")
    params = trees.nest(parameters(opened(path)))
    oft_writer.save_parts(tmp_path, opened(path).oft, params, step=150000)
    for name in (HEAD, PROPRIO):
        theirs, ours = (torch.load(f / name, weights_only=True) for f in (path, tmp_path))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        assert all(ours[key].dtype == theirs[key].dtype for key in theirs)


def test_a_sharded_read_is_the_same(folder):
    """Every device reads its part."""
    weights = opened(folder("film"))
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "x"))
    config = dataclasses.replace(weights.config, dtype="float32", param_dtype="float32")
    leaves = weights.leaves(config)
    name = "vision/blocks/up"  # [layers, embed, mlp], with an adapter
    leaf = leaves[name]
    spread = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
    found = weights.read(config, leaves | {name: spread})
    np.testing.assert_array_equal(found[name], parameters(weights)[name])


def test_a_number_too_large_is_not_written(folder, tmp_path):
    weights = opened(folder("l1"))
    params = parameters(weights)
    params["action_head/last"] = params["action_head/last"].at[0, 0].set(1e9)
    with pytest.raises(UserError, match=r"parameter action_head\.module\.model\.fc2\.weight"):
        oft_writer.save_parts(tmp_path, weights.oft, trees.nest(params), step=1, dtype=np.float16)
    assert not list(tmp_path.glob("*.pt"))


def drop(name):
    return lambda path: (path / name).unlink()


def another(name):
    return lambda path: shutil.copy(path / name, path / name.replace("150000", "5"))


def in_head(change):
    return lambda path: rewrite(path / HEAD, change)


def fewer_outputs(values):
    for part in ("weight", "bias"):
        values[f"module.model.fc2.{part}"] = values[f"module.model.fc2.{part}"][:6]


def other_width(values):
    values["module.model.fc1.weight"] = values["module.model.fc1.weight"][:8]


def of_diffusion(values):
    for name in list(values):
        new = name.replace("module.model.", "module.noise_predictor.mlp_resnet.")
        values[new] = values.pop(name)


def without_norm(values):
    del values["module.model.layer_norm2.bias"]


def with_more(values):
    values["module.model.fc3.weight"] = values["module.model.fc2.weight"]


def not_finite(values):
    values["module.model.fc2.weight"][0, 0] = np.nan


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop(HEAD), r"expected one file action_head--STEP_checkpoint\.pt, found none"),
        (another(HEAD), "found action_head--150000_checkpoint.pt, action_head--5_checkpoint.pt"),
        (another(PROPRIO), r"expected one file proprio_projector--STEP"),
        (in_head(fewer_outputs), r"action_head: expected fc1\.weight of \(16, a x 16\)"),
        (in_head(other_width), r"action_head: expected fc1\.weight of \(16, a x 16\)"),
        (in_head(of_diffusion), "expected a head of L1 regression, found one of diffusion"),
        (in_head(without_norm), r"1 missing: action_head\.module\.model\.layer_norm2\.bias"),
        (in_head(with_more), r"1 unexpected: action_head\.module\.model\.fc3\.weight"),
        (in_head(not_finite), "expected finite numbers of float32, found NaN or infinity"),
    ],
)
def test_a_folder_whose_files_disagree(folder, damage, message):
    path = folder("l1")
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        parameters(opened(path))
    assert "\n" not in str(caught.value)


def wrong_adapter(values):
    name = "vision_backbone.featurizer.blocks.0.block.attn.qkv.lora_A.default.weight"
    values[name] = values[name][:, :5]


def no_adapter(values):
    del values["vision_backbone.featurizer.blocks.0.block.attn.qkv.lora_B.default.weight"]


@pytest.mark.parametrize("change", [wrong_adapter, no_adapter])
def test_an_adapter_that_does_not_fit(folder, change):
    path = folder("film")
    rewrite(path / VISION, change)
    message = r"blocks\.0\.block\.attn\.qkv: expected adapters lora_A and lora_B of a matrix"
    with pytest.raises(UserError, match=message):
        opened(path)


def test_a_chunk_is_given_or_written(folder):
    path = folder("l1")
    with pytest.raises(UserError, match=r"chunk of .*: expected a value, found none in its files"):
        opened(path, chunk=None)
    edit(path / "config.json", lambda c: c.update(oft.note(8, "q99")))
    assert opened(path, chunk=None).oft.chunk == 8
    with pytest.raises(UserError, match=r"chunk of .*: expected 8 \(its config.json\), found 4"):
        opened(path)
    with pytest.raises(UserError, match=r"bounds of .*: expected q99 .*, found minmax"):
        opened(path, chunk=8).statistics("minmax")
    edit(path / "config.json", lambda c: c.update({oft.NOTE: {"chunk": 0}}))
    with pytest.raises(UserError, match=r"field vla_jax_oft, field chunk: expected int >= 1"):
        opened(path)


@pytest.mark.parametrize("kind", ["q99", "minmax"])
def test_bounds(folder, kind):
    said = json.loads((SEED / oft.STATISTICS).read_text())[KEY]
    low, high = ("q01", "q99") if kind == "q99" else ("min", "max")
    found = opened(folder("l1")).statistics(kind)
    for bounds, part in zip(found, ("action", "proprio"), strict=True):
        np.testing.assert_array_equal(bounds.low, said[part][low])
        np.testing.assert_array_equal(bounds.high, said[part][high])
        np.testing.assert_array_equal(bounds.mask, said[part]["mask"])


def test_bounds_in_the_config(folder):
    path = folder("l1")
    (path / oft.STATISTICS).unlink()
    assert opened(path).statistics("q99", KEY)[0].size == 7


def of(part, name, value):
    return lambda s: s[KEY][part].update({name: value})


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        (of("action", "q99", [1.0] * 14), None, r"action\.q99: expected 7 numbers.*, found 14"),
        (of("action", "mask", [True]), None, r"action\.mask: expected 7 numbers.*, found 1"),
        (of("proprio", "q01", [0.0]), None, r"proprio\.q01: expected 8 numbers.*, found 1"),
        (of("action", "q01", ["a"]), None, r"field action\.q01\[0\]: expected float, got str"),
        (of("action", "q99", [float("nan")] * 7), None, "expected a finite number, found nan"),
        (lambda s: s[KEY].pop("proprio"), None, r"proprio\.q01: expected 8 numbers.*, found 0"),
        (lambda s: s[KEY].update(action=3), None, "field action: expected object, got int"),
        (lambda s: None, "libero_spatial", f"expected dataset libero_spatial, found {KEY}"),
        (lambda s: s.update(other=s[KEY]), None, f"expected one dataset, found {KEY}, other"),
    ],
)
def test_statistics_of_another_model(folder, change, key, message):
    path = folder("l1")
    edit(path / oft.STATISTICS, change)
    with pytest.raises(UserError, match=message) as caught:
        opened(path).statistics("q99", key)
    assert "\n" not in str(caught.value)
