"""transformers itself: tiny random models, written and computed by it, read and computed by us."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.core import trees
from vla_jax.models import pretrained
from vla_jax.models.pretrained import huggingface, table
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm import VLM
from vla_jax.policy.decode import make_decoder
from vla_jax.tokens import automaton

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5
IMAGE = 200  # the id of the placeholder of an image token
VISION = {
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 256,
}


def randomized(model, seed):
    """Fills all parameters, biases and norms included, so that logits have a deviation of 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(0, 0.12, generator=generator)
        for module in model.modules():  # Gemma's own norms add the 1 themselves.
            if isinstance(module, torch.nn.LayerNorm) or "LlamaRMSNorm" in type(module).__name__:
                module.weight.add_(1)
    return model.eval()


def build_paligemma(second, key_heads, seed=0):
    """Returns a PaliGemma whose heads are wider than the model: N * H != E."""
    kind = transformers.Gemma2Config if second else transformers.GemmaConfig
    more = {"query_pre_attn_scalar": 40, "sliding_window": 64} if second else {}
    text = kind(**TEXT, num_key_value_heads=key_heads, head_dim=32, **more)
    vision = transformers.SiglipVisionConfig(**VISION, vision_use_head=False)
    config = transformers.PaliGemmaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        projection_dim=TEXT["hidden_size"],
        attn_implementation="eager",
    )
    return randomized(transformers.PaliGemmaForConditionalGeneration(config), seed)


# Gemma 2 or not, key heads, seed.
MODELS = {"multi_query": (False, 1, 0), "grouped": (True, 2, 1), "full": (False, 4, 2)}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return build_paligemma(*MODELS[request.param])


class Example:
    """Two images a row, prefixes of 3 and 5 tokens, suffixes of 4, as both sides take them."""

    def __init__(self, views=2):
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (2, views, 28, 28, 3), np.uint8)
        self.tokens = rng.integers(4, IMAGE, (2, 9)).astype(np.int32)
        self.length = np.array([3, 5])
        self.tokens[0, :2] = 0
        self.patches = 4 * views

    def ours(self, loaded):
        return loaded.logits(self.images, self.tokens, self.length)

    def prompt(self):
        """Returns ids, mask and pixels of images and prefix, padded on the left."""
        rows = []
        for tokens, length in zip(self.tokens, self.length, strict=True):
            pad, text = tokens[: 5 - length], tokens[5 - length : 5]
            rows.append(np.concatenate([pad, np.full(self.patches, IMAGE), text]))
        ids = torch.tensor(np.stack(rows).astype(np.int64))
        mask = torch.ones_like(ids)
        mask[0, :2] = 0
        pixels = self.images.reshape(-1, 28, 28, 3).transpose(0, 3, 1, 2) / 127.5 - 1
        return ids, mask, torch.tensor(pixels, dtype=torch.float32)

    def theirs(self, model):
        """Returns the logits that predict the suffix, teacher-forced."""
        ids, mask, pixels = self.prompt()
        suffix = torch.tensor(self.tokens[:, 5:].astype(np.int64))
        ids = torch.cat([ids, suffix], dim=1)
        mask = torch.cat([mask, torch.ones_like(suffix)], dim=1)
        types = torch.zeros_like(ids)
        types[:, -4:] = 1
        with torch.no_grad():
            out = model(
                input_ids=ids,
                pixel_values=pixels,
                attention_mask=mask,
                token_type_ids=types,
                position_ids=mask.cumsum(1),
            )
        return out.logits[:, -5:-1].numpy()

    def generated(self, model, low, high, count):
        """Returns the tokens of transformers' own greedy decoding, ids `low` to `high` allowed."""
        ids, mask, pixels = self.prompt()
        with torch.no_grad():
            out = model.generate(
                input_ids=ids,
                pixel_values=pixels,
                attention_mask=mask,
                token_type_ids=torch.zeros_like(ids),
                do_sample=False,
                max_new_tokens=count,
                min_new_tokens=count,
                prefix_allowed_tokens_fn=lambda _, __: list(range(low, high)),
            )
        return out[:, ids.shape[1] :].numpy()


def layout_a(model):
    """Names as on the hub; the tied matrix is not written."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    del state["lm_head.weight"]
    roots = {
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.language_model.": "language_model.model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    }
    return {
        roots[root] + name.removeprefix(root): value
        for name, value in state.items()
        for root in roots
        if name.startswith(root)
    }


def same(a, b):
    left, right = trees.named_leaves(a.params), trees.named_leaves(b.params)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_paligemma_in_every_layout(model, tmp_path, write):
    config = model.config.to_dict()
    hub = pretrained.load(write(layout_a(model), config, "hub"))
    example = Example()
    expected = example.theirs(model)
    assert 0.5 < expected.std() < 1.1
    assert np.abs(example.ours(hub) - expected).max() <= TOLERANCE
    # As version 5 saves it, in one file and in several.
    model.save_pretrained(tmp_path / "saved")
    same(hub, pretrained.load(str(tmp_path / "saved")))
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    same(hub, pretrained.load(str(tmp_path / "shards")))
    # As it is in memory, the tied matrix twice.
    memory = {name: value.numpy() for name, value in model.state_dict().items()}
    assert "lm_head.weight" in memory
    same(hub, pretrained.load(write(memory, config, "memory")))


def test_the_same_tokens_are_decoded(model, write):
    """Cached and under a grammar, on both sides; two images, prefixes of unequal length."""
    loaded = pretrained.load(write(layout_a(model), model.config.to_dict()))
    example, low, high = Example(), 64, 128
    legal = np.zeros((7, 256), bool)
    legal[:, low:high] = True
    decode = make_decoder(loaded.graph, automaton.positions(legal))
    found = decode(loaded.params, example.tokens[:, :5], example.length, images=example.images)
    np.testing.assert_array_equal(found, example.generated(model, low, high, 7))


def test_a_mesh_gets_the_same_values(model, write):
    path = write(layout_a(model), model.config.to_dict())
    mesh = jax.make_mesh((1, 4, 2), ("data", "fsdp", "tensor"))
    spread = pretrained.load(path, mesh=mesh)
    leaf = spread.params["decoder"]["blocks"]["gate"]
    assert leaf.sharding.spec == jax.sharding.PartitionSpec(None, "fsdp", "tensor")
    assert leaf.addressable_shards[0].data.shape == (2, 16, 48)
    same(spread, pretrained.load(path))


@pytest.mark.parametrize("name", ["pg1", "pg2"])
def test_from_big_vision_to_transformers_and_back(paligemma, name, write):
    """npz -> ours -> Hugging Face's names -> ours is bit-equal, and transformers takes them all."""
    loaded = build_paligemma(name == "pg2", 2 if name == "pg2" else 1)
    config = loaded.config.to_dict()
    config["vision_config"] |= {"num_hidden_layers": 3, "image_size": 56}
    config["text_config"] |= {
        "num_hidden_layers": 3,
        "intermediate_size": 128,
        "vocab_size": 512,
        "query_pre_attn_scalar": 32,
        "final_logit_softcapping": None,
        "layer_types": None,
    }
    ours = paligemma(name)
    leaves = trees.named_leaves(ours.params)
    shapes = {leaf: value.shape for leaf, value in leaves.items()}
    tensors = {
        entry.name: entry.pack(
            [np.asarray(leaves[p.leaf])[() if p.index is None else p.index] for p in entry.places]
        )
        for entry in table.entries(huggingface.paligemma(ours.config), shapes)
    }
    path = write(tensors, config)
    again = pretrained.load(path)
    same(ours, again)
    assert again.config == dataclasses.replace(
        ours.config,
        decoder=dataclasses.replace(ours.config.decoder, window=again.config.decoder.window),
    )
    theirs, info = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        path, output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    np.testing.assert_array_equal(
        theirs.model.language_model.layers[2].self_attn.o_proj.weight.detach().numpy(),
        tensors["language_model.model.layers.2.self_attn.o_proj.weight"],
    )


def test_siglip_alone(tmp_path):
    theirs = randomized(
        transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VISION)), 1
    )
    theirs.save_pretrained(tmp_path)
    loaded = pretrained.load(str(tmp_path))
    assert loaded.parts == ("vision",)
    pixels, images = pixels_of(2)
    with torch.no_grad():
        out = theirs(pixel_values=pixels)
    tower = loaded.tower()
    features = tower(images)
    assert np.abs(features - out.last_hidden_state.numpy()).max() <= TOLERANCE
    assert np.abs(tower.pool(features) - out.pooler_output.numpy()).max() <= TOLERANCE


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_alone(tmp_path, registers):
    sizes = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
    }
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=registers)
        theirs = randomized(transformers.Dinov2WithRegistersModel(config), 2)
    else:
        theirs = randomized(transformers.Dinov2Model(transformers.Dinov2Config(**sizes)), 2)
    theirs.save_pretrained(tmp_path)
    pixels, images = pixels_of(2)
    with torch.no_grad():
        out = theirs(pixel_values=pixels).last_hidden_state[:, 1 + registers :].numpy()
    found = pretrained.load(str(tmp_path)).tower()(images)
    assert np.abs(found - out).max() <= TOLERANCE


@pytest.mark.parametrize("kind", ["llama", "llama_tied", "gemma", "gemma2"])
def test_a_language_model_alone(tmp_path, filled, kind):
    sizes = TEXT | {"num_key_value_heads": 2, "attn_implementation": "eager"}
    if kind == "gemma":
        config = transformers.GemmaConfig(**sizes, head_dim=32)
        theirs = transformers.GemmaForCausalLM(config)
    elif kind == "gemma2":
        config = transformers.Gemma2Config(**sizes, head_dim=32)
        theirs = transformers.Gemma2ForCausalLM(config)
    else:
        config = transformers.LlamaConfig(**sizes, tie_word_embeddings=kind == "llama_tied")
        theirs = transformers.LlamaForCausalLM(config)
    randomized(theirs, 3).save_pretrained(tmp_path)
    loaded = pretrained.load(str(tmp_path))
    assert (loaded.parts, loaded.vocabulary) == (("text",), 256)
    assert loaded.config.decoder.tied == (kind != "llama")
    tokens = np.random.default_rng(0).integers(0, 256, (2, 7))
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(tokens)).logits.numpy()
    assert expected.std() > 0.3
    # In a model without an image to see it is a plain language model.
    tower = ViTConfig(image_size=8, patch_size=4, width=8, depth=1, heads=2, mlp=8)
    config = dataclasses.replace(loaded.config, vision=tower, attention="causal")
    model = filled(lambda: VLM(config, 256, nnx.Rngs(0)))
    nnx.update(model.decoder, loaded.params["decoder"])
    found = model.logits(
        jnp.zeros((2, 1, 8, 8, 3), jnp.uint8),
        jnp.asarray(np.pad(tokens, [(0, 0), (0, 1)])),
        jnp.array([1, 1]),
        1,
        image_mask=jnp.zeros((2, 1), bool),
    )
    assert np.abs(found - expected).max() <= TOLERANCE


def pixels_of(count):
    pixels = np.random.default_rng(0).normal(0, 1, (count, 3, 28, 28)).astype(np.float32)
    return torch.tensor(pixels), jnp.asarray(pixels.transpose(0, 2, 3, 1))
