"""Sizes from a config.json that leaves its defaults out; no tensor is needed."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models import variants
from vla_jax.models.pretrained import architecture, huggingface, openvla, report, table, weights
from vla_jax.models.pretrained.files import Files
from vla_jax.models.pretrained.tensors import Tensor
from vla_jax.models.vlm import VLM

VARIANTS = variants.variants()
SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
    "vision_use_head": False,
}
GEMMA = {
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "model_type": "gemma",
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
    "num_image_tokens": 256,
    "num_key_value_heads": 1,
    "torch_dtype": "float32",
    "vocab_size": 257216,
}
# The published sizes, written as transformers and OpenVLA write them: without what is default.
RELEASED = {
    "paligemma_3b_224": (
        huggingface.paligemma,
        {"model_type": "paligemma", "text_config": GEMMA, "vision_config": SIGLIP},
    ),
    "paligemma_3b_896": (
        huggingface.paligemma,
        {
            "model_type": "paligemma",
            "text_config": GEMMA,
            "vision_config": SIGLIP | {"image_size": 896},
        },
    ),
    "paligemma2_3b": (
        huggingface.paligemma,
        {
            "model_type": "paligemma",
            "text_config": {"model_type": "gemma2"},
            "vision_config": SIGLIP,
        },
    ),
    "paligemma2_28b": (
        huggingface.paligemma,
        {
            "model_type": "paligemma",
            "text_config": {
                "model_type": "gemma2",
                "hidden_size": 4608,
                "intermediate_size": 36864,
                "num_hidden_layers": 46,
                "num_attention_heads": 32,
                "num_key_value_heads": 16,
                "head_dim": 128,
                "query_pre_attn_scalar": 144,
            },
            "vision_config": SIGLIP,
        },
    ),
    "openvla_7b": (
        openvla.openvla,
        {
            "model_type": "openvla",
            "use_fused_vision_backbone": True,
            "timm_model_ids": [
                "vit_large_patch14_reg4_dinov2.lvd142m",
                "vit_so400m_patch14_siglip_224",
            ],
            "text_config": {"model_type": "llama", "vocab_size": 32064},
        },
    ),
    "openvla_siglip_7b": (
        openvla.openvla,
        {
            "model_type": "openvla",
            "use_fused_vision_backbone": False,
            "timm_model_ids": ["vit_so400m_patch14_siglip_224"],
            "text_config": {"model_type": "llama", "vocab_size": 32064},
        },
    ),
}


def files(name):
    """A checkpoint of a named size of which nothing but headers exists."""
    make_table, config = RELEASED[name]
    model = nnx.eval_shape(lambda: VLM(VARIANTS[name], 32_064, nnx.Rngs(0)))
    leaves = trees.named_leaves(nnx.to_pure_dict(nnx.state(model)))
    shapes = {leaf: value.shape for leaf, value in leaves.items()}
    dtype = np.dtype(np.float32)
    tensors = {
        entry.name: Tensor(file="x", shape=entry.shape, dtype=dtype, kind="F32", offset=0)
        for entry in table.entries(make_table(VARIANTS[name]), shapes)
    }
    return Files(path=name, tensors=tensors, config=config)


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_checkpoint_is_of_its_named_size(name, monkeypatch):
    monkeypatch.setattr(weights, "open_files", files)
    opened = weights.Weights(name)
    opened.require(opened.config)
    said = dict(report.rows(opened))
    assert said["named size"] == name
    assert said["problems"] == "none"
    config = opened.config
    # What the checkpoint says for itself, a named size does not.
    assert config.decoder.final_softcap == (30.0 if "paligemma2" in name else None)
    assert config.decoder.norm_epsilon == 1e-6


def test_the_newer_form_of_rotary_settings():
    config = {"model_type": "llama", "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    found = architecture.infer(Files(path="x", tensors={}, config=config))
    assert found.parts == ("text",)
    assert found.config.decoder.rope_base == 5e5
    scaled = config | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3"}}
    with pytest.raises(UserError, match="plain rotary positions"):
        architecture.infer(Files(path="x", tensors={}, config=scaled))


def test_a_tower_as_timm_saves_it():
    """The same tensors as in OpenVLA, LayerScale by its own name; all layers count."""
    whole = files("openvla_7b")
    root = "vision_backbone.featurizer."
    tensors = {
        name.removeprefix(root).replace("scale_factor", "gamma"): tensor
        for name, tensor in whole.tensors.items()
        if name.startswith(root)
    }
    config = {"architecture": "vit_large_patch14_reg4_dinov2", "num_classes": 0}
    found = architecture.infer(Files(path="x", tensors=tensors, config=config))
    expected = dataclasses.replace(VARIANTS["openvla_7b"].vision, features="final")
    assert found.config.vision == expected
    assert found.parts == ("vision",)
