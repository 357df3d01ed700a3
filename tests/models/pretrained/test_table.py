"""The tables against the authors' files: every name, every shape, and both directions."""

import dataclasses

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from vla_jax.core import trees
from vla_jax.models import variants
from vla_jax.models.pretrained import big_vision, huggingface, openvla, table
from vla_jax.models.vlm import VLM


def shapes(config, rows):
    model = nnx.eval_shape(lambda: VLM(config, rows, nnx.Rngs(0)))
    leaves = trees.named_leaves(nnx.to_pure_dict(nnx.state(model)))
    return {name: leaf.shape for name, leaf in leaves.items()}


@pytest.fixture(params=["pg1", "pg2", "openvla"])
def case(request, golden, paligemma, openvla_config):
    """Family, shapes of our parameters, and the authors' tensors."""
    path, _ = golden(request.param)
    if request.param == "openvla":
        tensors = load_file(f"{path}/model.safetensors")
        return openvla.openvla(openvla_config), shapes(openvla_config, 268), tensors
    config = paligemma(request.param).config
    return big_vision.paligemma(config), shapes(config, 512), dict(np.load(path))


def test_names_and_shapes_are_those_of_the_file(case):
    family, leaves, tensors = case
    found = {entry.name: entry.shape for entry in table.entries(family, leaves)}
    assert found == {name: value.shape for name, value in tensors.items()}


def test_unpacking_fills_every_parameter_once_and_packing_inverts_it(case):
    family, leaves, tensors = case
    filled = {name: np.zeros(shape, int) for name, shape in leaves.items()}
    for entry in table.entries(family, leaves):
        parts = entry.unpack(tensors[entry.name])
        for place, part in zip(entry.places, parts, strict=True):
            target = filled[place.leaf]
            held = target if place.index is None else target[place.index]
            assert part.shape == held.shape
            target[() if place.index is None else place.index] += 1
        np.testing.assert_array_equal(entry.pack(parts), tensors[entry.name])
    assert all((count == 1).all() for count in filled.values())


def test_most_tensors_are_views(case):
    """Unpacking copies nothing but the patches' kernel, so a mapped file stays on disk."""
    family, leaves, tensors = case
    for entry in table.entries(family, leaves):
        value = tensors[entry.name]
        copied = not np.shares_memory(entry.unpack(value)[0], value)
        assert copied == (entry.places[0].leaf.endswith("stem0") and value.shape[-1] == 14)


def test_every_family_has_real_sizes():
    """Names of the released models, as their own files have them."""
    config = variants.variants()["paligemma2_3b"]
    found = {e.name: e for e in table.entries(huggingface.paligemma(config), shapes(config, 9))}
    assert len(found) == 26 * 11 + 2 + 27 * 16 + 5 + 2
    query = "language_model.model.layers.25.self_attn.q_proj.weight"
    assert found[query].shape == (2048, 2304)
    assert found["vision_tower.vision_model.embeddings.patch_embedding.weight"].shape == (
        (1152, 3, 14, 14)
    )
    assert "language_model.model.layers.0.pre_feedforward_layernorm.weight" in found
    big = variants.OPENVLA_7B
    names = {e.name for e in table.entries(openvla.openvla(big), shapes(big, 9))}
    # The last layer of a tower is in the file, although nobody asks it.
    assert "vision_backbone.featurizer.blocks.23.ls2.scale_factor" in names
    assert "vision_backbone.fused_featurizer.blocks.26.attn.qkv.weight" in names


def test_what_is_only_read_is_not_written():
    config = dataclasses.replace(variants.PALIGEMMA_3B, vision=variants.OPENVLA_7B.vision)
    entries = table.entries(huggingface.dinov2_alone(config), shapes(config, 9))
    position = next(e for e in entries if e.name.endswith("position_embeddings"))
    assert position.shape == (1, 257, 1024)
    with pytest.raises(ValueError, match="only be read"):
        position.pack([np.zeros((256, 1024))])
