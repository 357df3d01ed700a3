import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from vla_jax.core import trees
from vla_jax.models import variants
from vla_jax.models.vlm import VLM, VLMConfig

VARIANTS = {name: value for name, value in vars(variants).items() if isinstance(value, VLMConfig)}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("views", [1, 2])
def test_shapes_of_every_variant(name, views):
    config = VARIANTS[name]
    size, patches = config.vision.image_size, config.vision.patches

    def run(images, tokens, length):
        model = VLM(config, 300, nnx.Rngs(0))
        logits, cache = model.prefill(images, tokens[:, :12], length, slots=7)
        return model.logits(images, tokens, length, 12), logits, cache

    full, first, cache = jax.eval_shape(
        run,
        jax.ShapeDtypeStruct((2, views, size, size, 3), jnp.uint8),
        jax.ShapeDtypeStruct((2, 21), jnp.int32),
        jax.ShapeDtypeStruct((2,), jnp.int32),
    )
    assert (full.shape, full.dtype) == ((2, 9, 300), jnp.float32)
    assert first.shape == (2, 1, 300)
    decoder = config.decoder
    slots = patches * views + 12 + 7
    expected = (decoder.depth, 2, slots, decoder.key_heads, decoder.head_dim)
    assert [leaf.shape for leaf in cache.key_value] == [expected, expected]


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
