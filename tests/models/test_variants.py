import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from vla_jax.core import trees
from vla_jax.models import variants
from vla_jax.models.vlm import VLM

VARIANTS = variants.variants()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("views", [1, 2])
def test_shapes_of_every_variant(name, views):
    config = VARIANTS[name]
    size, patches = config.vision.image_size, config.vision.patches

    def run(images, tokens, length):
        model = VLM(config, 300, nnx.Rngs(0))
        state = {"state": jnp.zeros((2, config.state))} if config.state else {}
        logits, cache = model.prefill(images, tokens[:, :12], length, slots=7, **state)
        return model.logits(images, tokens, length, 12, **state), logits, cache

    full, first, cache = jax.eval_shape(
        run,
        jax.ShapeDtypeStruct((2, views, size, size, 3), jnp.uint8),
        jax.ShapeDtypeStruct((2, 21), jnp.int32),
        jax.ShapeDtypeStruct((2,), jnp.int32),
    )
    assert (full.shape, full.dtype) == ((2, 9, 300), jnp.float32)
    assert first.shape == (2, 1, 300)
    decoder = config.decoder
    if config.images == "inline":
        slots = 12 + 7
    else:
        extra = (config.images == "after_bos") + (config.state > 0)
        slots = patches // config.shuffle**2 * views + extra + 12 + 7
    expected = (decoder.depth, 2, slots, decoder.key_heads, decoder.head_dim)
    assert [leaf.shape for leaf in cache.key_value] == [expected, expected]


# Published parameters in millions, the vocabulary they count, and how near ours must be. Exact
# figures are the released checkpoints'; of the RT-2 models only names and round totals are known.
PUBLISHED = {
    "paligemma_3b_224": (2_923.3, 257_152, 0.1),
    "paligemma_3b_448": (2_924.2, 257_152, 0.1),
    "paligemma_3b_896": (2_927.8, 257_152, 0.1),
    "paligemma2_3b": (3_032.1, 257_152, 0.2),
    "paligemma2_10b": (9_662.4, 257_152, 0.2),
    "paligemma2_28b": (27_650.2, 257_152, 0.2),
    "openvla_7b": (7_541.2, 32_064, 0.1),
    "openvla_siglip_7b": (7_188.1, 32_064, 0.1),
    "smol_500m": (507.5, 49_280, 0.1),
    "rt2_pali_3b": (5_000, 257_152, 100),
    "rt2_palix_5b": (5_000, 257_152, 100),
    "rt2_palix_55b": (55_000, 257_152, 1_000),
    "rt2_palme_12b": (12_600, 257_152, 200),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_many_parameters_as_published(name):
    millions, vocabulary, tolerance = PUBLISHED[name]
    model = nnx.eval_shape(lambda: VLM(VARIANTS[name], vocabulary, nnx.Rngs(0)))
    found = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))
    assert found / 1e6 == pytest.approx(millions, abs=tolerance)


# OpenVLA's table 1, millions of trainable parameters, and which of ours that is. LAST is the
# decoder's last layer, a slice of the stack.
LAST = "decoder/blocks/"
EMBEDDINGS = ("decoder/embedding", "decoder/head", "decoder/norm")
FINE_TUNING = {
    "full": (7_188.1, ("",)),
    "last layer and embeddings": (465.1, (LAST, *EMBEDDINGS)),
    "frozen vision": (6_760.4, ("decoder/", "projector/")),
    "sandwich": (914.2, ("vision/", "projector/", LAST, *EMBEDDINGS)),
}


@pytest.mark.parametrize("name", FINE_TUNING)
def test_openvla_trains_as_many_parameters_as_published(name):
    millions, trained = FINE_TUNING[name]
    config = VARIANTS["openvla_siglip_7b"]
    model = nnx.eval_shape(lambda: VLM(config, 32_064, nnx.Rngs(0)))
    leaves = trees.named_leaves(nnx.to_pure_dict(nnx.state(model)))
    found = sum(
        leaf.size // (config.decoder.depth if name.startswith(LAST) and LAST in trained else 1)
        for name, leaf in leaves.items()
        if name.startswith(trained)
    )
    assert found / 1e6 == pytest.approx(millions, abs=0.1)


def test_the_tabletop_model_is_tiny():
    config = variants.TABLETOP_TINY
    model = nnx.eval_shape(lambda: VLM(config, 600, nnx.Rngs(0)))
    sizes = {
        k: leaf.size for k, leaf in trees.named_leaves(nnx.to_pure_dict(nnx.state(model))).items()
    }
    total = sum(sizes.values())
    assert sizes["decoder/embedding"] == 600 * 128
    # A CPU trains it in minutes; most of it is layers, not vocabulary.
    assert 300_000 < total < 1_000_000
    assert config.vision.patches <= 36
