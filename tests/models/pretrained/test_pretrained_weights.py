"""What fits and what does not, told before a tensor is read; resampling; parts of a model."""

import dataclasses
import json
import re
import weakref

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models import pretrained, variants
from vla_jax.models.pretrained import files, tensors
from vla_jax.models.pretrained.filling import resample


@pytest.fixture
def openvla(golden):
    """Tensors and config.json of the tiny OpenVLA."""
    path = golden("openvla")[0]
    with open(f"{path}/config.json") as file:
        return load_file(f"{path}/model.safetensors"), json.load(file)


def test_every_bad_tensor_is_named_at_once(openvla, openvla_config, write):
    tensors, config = openvla
    del tensors["projector.fc2.bias"]
    del tensors["language_model.model.layers.1.mlp.up_proj.weight"]
    tensors["projector.fc3.weight"] = np.zeros((64, 63), np.float32)
    tensors["projector.fc9.weight"] = np.zeros((2, 2), np.float32)
    with pytest.raises(UserError) as error:
        pretrained.load(write(tensors, config), openvla_config)
    message = str(error.value)
    assert "OpenVLA" in message
    for text in (
        "2 missing: projector.fc2.bias, language_model.model.layers.1.mlp.up_proj.weight",
        "1 unexpected: projector.fc9.weight",
        "1 misshaped: projector.fc3.weight (expected (64, 64), found (64, 63) F32)",
    ):
        assert text in message
    assert "\n" not in message


def test_a_long_list_is_cut(openvla, openvla_config, write):
    tensors, config = openvla
    tensors = {name: value for name, value in tensors.items() if "attn" not in name}
    with pytest.raises(UserError, match=r"\d\d missing: .* and \d\d more"):
        pretrained.load(write(tensors, config), openvla_config)


def test_a_quantised_tensor_is_refused(openvla, openvla_config, write):
    tensors, config = openvla
    tensors["projector.fc1.weight"] = tensors["projector.fc1.weight"].astype(np.int8)
    with pytest.raises(UserError, match=r"misshaped: projector\.fc1\.weight .* found .* I8"):
        pretrained.load(write(tensors, config), openvla_config)


def test_parameters_that_no_tensor_holds_are_named(golden, paligemma):
    config = paligemma("pg1").config
    pooled = dataclasses.replace(config, vision=dataclasses.replace(config.vision, pool=True))
    with pytest.raises(UserError, match=r"15 unfilled: vision/pool/"):
        pretrained.load(golden("pg1")[0], pooled)


def test_a_model_with_a_state_is_not_one_that_was_released(golden, paligemma):
    with pytest.raises(UserError, match="expected 0, no released model takes one, found 8"):
        pretrained.load(golden("pg1")[0], dataclasses.replace(paligemma("pg1").config, state=8))


def test_a_variant_is_checked_and_its_differences_named(golden):
    with pytest.raises(UserError) as error:
        pretrained.load(golden("pg1")[0], "paligemma_3b_224")
    message = str(error.value)
    assert "is not paligemma_3b_224" in message
    assert "config.decoder.width: 64 -> 2048" in message
    assert "config.vision.depth: 3 -> 27" in message
    assert "image_size" not in message  # positions are resampled
    with pytest.raises(UserError, match="nearest is 'paligemma_3b_224'"):
        pretrained.load(golden("pg1")[0], "paligemma_3b_22")


def test_the_checkpoint_of_another_family_is_refused(golden):
    config = variants.variants()["paligemma2_3b"]
    with pytest.raises(UserError, match=r"OpenVLA\).*config\.decoder\.norm_offset: 0\.0 -> 1\.0"):
        pretrained.load(
            golden("openvla")[0], dataclasses.replace(config, fused_vision=config.vision)
        )


def test_another_norm_epsilon_is_a_difference(golden, openvla_config):
    decoder = dataclasses.replace(openvla_config.decoder, norm_epsilon=1e-5)
    with pytest.raises(UserError, match=r"config\.decoder\.norm_epsilon: 1e-06 -> 1e-05"):
        pretrained.load(golden("openvla")[0], dataclasses.replace(openvla_config, decoder=decoder))


def test_unknown_heads_of_a_tower_have_to_be_given(golden):
    with pytest.raises(UserError, match=r"tower tiny_patch14_reg4_dinov2.*Give the model"):
        pretrained.load(golden("openvla")[0])


@pytest.mark.parametrize(
    ("parts", "prefixes"), [("vision", {"vision", "fused_vision"}), ("text", {"decoder"})]
)
def test_a_part_is_read_without_looking_at_the_rest(
    openvla, openvla_config, write, parts, prefixes
):
    tensors, config = openvla
    tensors = {name: value for name, value in tensors.items() if "projector" not in name}
    weights = pretrained.Weights(write(tensors, config), openvla_config)
    abstract = weights.leaves(openvla_config)
    found = weights.read(openvla_config, abstract, parts)
    assert {name.split("/")[0] for name in found} == prefixes
    assert found.keys() == {n for n in abstract if n.split("/")[0] in prefixes}
    with pytest.raises(UserError, match="6 missing: projector"):
        weights.read(openvla_config, abstract)


def test_positions_are_resampled_to_another_resolution(golden, paligemma):
    config = paligemma("pg1").config
    larger = dataclasses.replace(config, vision=dataclasses.replace(config.vision, image_size=98))
    model = pretrained.load(golden("pg1")[0], larger)
    old, new = (m.params["vision"]["position"] for m in (paligemma("pg1"), model))
    assert new.shape == (49, 48)
    old, new = np.asarray(old).reshape(4, 4, -1), np.asarray(new).reshape(7, 7, -1)
    # Corners on corners: every second position of 7 is one of 4, between them is the mean.
    np.testing.assert_allclose(new[::2, ::2], old, atol=1e-6)
    np.testing.assert_allclose(new[1, 0], (old[0, 0] + old[1, 0]) / 2, atol=1e-6)
    images = np.zeros((1, 1, 98, 98, 3), np.uint8)
    assert model.logits(images, np.array([[2, 5, 1]]), np.array([2])).shape == (1, 1, 512)


def test_resampling_there_and_back_keeps_the_table():
    table = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    np.testing.assert_allclose(resample(resample(table, 25), 9), table, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_npz(tmp_path, golden, paligemma, dtype):
    """bfloat16 is stored by numpy as two bytes without a name."""
    with np.load(golden("pg1")[0]) as archive:
        half = {name: np.asarray(jnp.asarray(archive[name], dtype)) for name in archive.files}
    np.savez(tmp_path / "half.npz", **half)
    model = pretrained.load(str(tmp_path / "half.npz"))
    expected = "bfloat16" if dtype == "bfloat16" else "float32"
    assert model.config.param_dtype == expected
    for name, leaf in trees.named_leaves(model.params).items():
        full = trees.named_leaves(paligemma("pg1").params)[name]
        assert leaf.dtype == jnp.dtype(expected)
        np.testing.assert_array_equal(
            np.asarray(leaf, np.float32), np.asarray(full.astype(dtype), np.float32), err_msg=name
        )


def test_a_compressed_npz_is_read_too(tmp_path, golden, paligemma):
    with np.load(golden("pg2")[0]) as archive:
        np.savez_compressed(tmp_path / "small.npz", **archive)
    model = pretrained.load(str(tmp_path / "small.npz"))
    for name, leaf in trees.named_leaves(model.params).items():
        np.testing.assert_array_equal(leaf, trees.named_leaves(paligemma("pg2").params)[name])


def test_tensors_are_read_one_at_a_time_and_none_before_the_check(
    golden, openvla_config, monkeypatch
):
    """Host memory never holds two tensors, let alone a copy of the file."""
    read, views = [], []

    def counted(tensor):
        assert not any(view() is not None for view in views)
        read.append(tensor)
        value = plain(tensor)
        views.append(weakref.ref(value))
        return value

    plain = tensors.Tensor.read
    monkeypatch.setattr(tensors.Tensor, "read", counted)
    weights = pretrained.Weights(golden("openvla")[0], openvla_config)
    abstract = weights.leaves(openvla_config)
    weights.require(openvla_config)
    assert not read
    weights.read(openvla_config, abstract, "text")
    assert len(read) == len({(tensor.file, tensor.offset) for tensor in read})


def test_a_part_that_is_not_there(tmp_path, golden, paligemma):
    model = dataclasses.replace(paligemma("pg1"), parts=("text",))
    with pytest.raises(UserError, match="expected a whole model, found only text"):
        model.logits(np.zeros((1, 1, 56, 56, 3), np.uint8), np.array([[2, 5]]), np.array([1]))


def test_shapes_are_in_the_words_of_the_file(golden):
    opened = files.open_files(golden("pg1")[0])
    tensor = opened.tensors["params/llm/embedder/input_embedding"]
    assert (tensor.shape, tensor.kind, opened.config) == ((512, 64), "float32", None)
    assert re.fullmatch(r".*pg1\.npz", tensor.file)
