import dataclasses
import json

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models import vlm
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.lora import ALL_LINEAR, Lora, LoraConfig
from vla_jax.models.pretrained import huggingface, openvla, peft, table
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.policy.export.tensors import packed

VOCABULARY, IMAGE = 48, 47
CONFIG = VLMConfig(
    vision=ViTConfig(image_size=8, patch_size=4, width=16, depth=2, heads=2, mlp=24),
    decoder=DecoderConfig(width=32, depth=3, mlp=48, heads=4, key_heads=2, head_dim=12),
    dtype="float32",
    remat="none",
)


def randomly(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), leaf.dtype), tree)


def adapt(config, targets="all-linear", **changes):
    """Returns the model's structure, random parameters, LoRA and random adapters."""
    model = nnx.eval_shape(lambda: vlm.VLM(config, VOCABULARY, nnx.Rngs(0)))
    graph, state = nnx.split(model)
    params = randomly(nnx.to_pure_dict(state))
    adapters = Lora(params, vlm.logical_axes(model), LoraConfig(targets=targets, **changes))
    return graph, params, adapters, randomly(adapters.abstract(), 1)


def write(family, params):
    """Returns the tensors of a PyTorch model."""
    leaves = trees.named_leaves(params)
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    found = packed(table.entries(family, shapes), leaves, {})
    return {tensor.name: tensor.read() for tensor in found}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def paligemma(torch):
    transformers = pytest.importorskip("transformers", minversion="5.0")
    decoder, vision = CONFIG.decoder, CONFIG.vision
    config = transformers.PaliGemmaConfig(
        text_config={
            "model_type": "gemma",
            "vocab_size": VOCABULARY,
            "hidden_size": decoder.width,
            "intermediate_size": decoder.mlp,
            "num_hidden_layers": decoder.depth,
            "num_attention_heads": decoder.heads,
            "num_key_value_heads": decoder.key_heads,
            "head_dim": decoder.head_dim,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp,
            "num_hidden_layers": vision.depth,
            "num_attention_heads": vision.heads,
            "vision_use_head": False,
        },
        projection_dim=decoder.width,
        image_token_index=IMAGE,
    )
    return transformers.PaliGemmaForConditionalGeneration(config).eval()


def load(torch, model, family, params):
    """Puts our parameters into a model of Hugging Face's; every tensor is found."""
    tensors = write(peft.in_memory(family), params)
    state = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    model.tie_weights()


# PEFT asks transformers by a name that it is about to lose.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize("targets", ["all-linear", f"{ALL_LINEAR}|vision/stem0"])
def test_peft_computes_what_the_merged_model_does(tmp_path, torch, paligemma, targets):
    library = pytest.importorskip("peft")
    graph, params, lora, values = adapt(CONFIG, targets, rank=3, alpha=5.0)
    family = huggingface.paligemma(CONFIG)
    load(torch, paligemma, family, params)
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (2, 1, 8, 8, 3)).astype(np.uint8)
    tokens = rng.integers(4, 40, (2, 7)).astype(np.int32)

    def ours(params):
        logits = nnx.merge(graph, params).logits(images, tokens, np.array([4, 4]), 4)
        return np.asarray(logits)

    def theirs(model):
        pixels = einops.rearrange(images[:, 0] / np.float32(127.5) - 1, "b y x c -> b c y x")
        ids = np.concatenate([np.full((2, 4), IMAGE), tokens], axis=1)
        suffix = np.zeros_like(ids)
        suffix[:, 8:] = 1
        with torch.no_grad():
            logits = model(
                input_ids=torch.from_numpy(ids),
                pixel_values=torch.from_numpy(pixels.astype(np.float32)),
                attention_mask=torch.ones(ids.shape, dtype=torch.long),
                token_type_ids=torch.from_numpy(suffix),
            ).logits
        return logits[:, 7:-1].numpy()

    unit = np.std(ours(params))
    np.testing.assert_allclose(theirs(paligemma), ours(params), atol=1e-5 * max(unit, 1))
    peft.save(tmp_path, lora, values, params, family, base="tiny")
    adapted = library.PeftModel.from_pretrained(paligemma, str(tmp_path)).eval()
    merged = ours(lora.merge(params, values))
    assert np.abs(merged - ours(params)).max() > 0.1 * unit
    np.testing.assert_allclose(theirs(adapted), merged, atol=1e-5 * max(np.std(merged), 1))


def test_an_adapter_of_packed_matrices_is_theirs_block_by_block(tmp_path):
    """OpenVLA's fused towers, in numpy: base + scale B A is the merged tensor."""
    tower = {"activation": "gelu_exact", "features": "penultimate"}
    vision = dataclasses.replace(CONFIG.vision, pool=True, **tower)
    config = dataclasses.replace(
        CONFIG,
        vision=vision,
        fused_vision=dataclasses.replace(vision, depth=3),
        projector="mlp3",
        decoder=dataclasses.replace(CONFIG.decoder, tied=False),
    )
    targets = f"{ALL_LINEAR}|.*vision/stem0|decoder/head"
    _, params, lora, values = adapt(config, targets, rank=2, alpha=3.0)
    family = openvla.openvla(config)
    peft.save(tmp_path, lora, values, params, family, base="openvla")
    found = load_file(tmp_path / "adapter_model.safetensors")
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    base, merged = write(family, params), write(family, lora.merge(params, values))
    modules = {name.removesuffix(".lora_A.weight") for name in found if "lora_A" in name}
    assert {f"base_model.model.{name}" for name in settings["target_modules"]} == modules
    changed = {name for name in base if not np.array_equal(base[name], merged[name])}
    assert changed == {f"{name}.weight" for name in settings["target_modules"]}
    for name in settings["target_modules"]:
        a, b = (found[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
        rank = settings["rank_pattern"].get(name, 2)
        packed = 3 if name.endswith("qkv") else 2 if name.endswith("kv") else 1
        assert rank == a.shape[0] == b.shape[1] == 2 * packed
        scale = settings["alpha_pattern"].get(name, 3.0) / rank
        expected = base[f"{name}.weight"] + scale * np.einsum(
            "or,r...->o...", b.reshape(b.shape[:2]), a
        )
        np.testing.assert_allclose(merged[f"{name}.weight"], expected, atol=1e-6)


def test_only_one_of_the_packed_matrices_may_be_adapted(tmp_path):
    config = dataclasses.replace(CONFIG, projector="mlp3")
    _, params, lora, values = adapt(config, "vision/blocks/key", rank=2)
    peft.save(tmp_path, lora, values, params, openvla.openvla(config), base="openvla")
    found = load_file(tmp_path / "adapter_model.safetensors")
    b = found["base_model.model.vision_backbone.featurizer.blocks.1.attn.qkv.lora_B.weight"]
    assert b.shape == (48, 2)
    assert (b[:16] == 0).all()
    assert (b[16:32] != 0).all()
    assert (b[32:] == 0).all()


def test_names_may_be_those_of_another_version(tmp_path):
    _, params, lora, values = adapt(CONFIG, "vision/.*/up", rank=2)
    family = huggingface.paligemma(CONFIG)
    names = {"model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"}
    peft.save(tmp_path, lora, values, params, family, base="tiny", names=names)
    found = load_file(tmp_path / "adapter_model.safetensors")
    assert set(found) == {
        f"base_model.model.model.vision_tower.vision_model.encoder.{layer}.mlp.fc1.lora_{x}.weight"
        for layer in ("layers.0", "layers.1")
        for x in "AB"
    }


def test_what_is_no_module_there_is_refused(tmp_path):
    config = dataclasses.replace(CONFIG, state=4)
    _, params, lora, values = adapt(config)
    with pytest.raises(UserError, match="state/down, state/up"):
        peft.save(tmp_path, lora, values, params, huggingface.paligemma(config), base="tiny")
