"""A model of a few thousand parameters, in float32, and inputs for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.core import trees
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm import VLM
from vla_jax.models.vlm_config import VLMConfig

VOCABULARY = 40


def make_config(*, key_heads=4, unroll=1, **changes):
    return VLMConfig(
        **{
            "vision": ViTConfig(image_size=8, patch_size=4, width=8, depth=2, heads=2, mlp=16),
            "decoder": DecoderConfig(
                width=16, depth=2, mlp=32, heads=4, key_heads=key_heads, head_dim=8
            ),
            "dtype": "float32",
            "remat": "none",
            "unroll": unroll,
        }
        | changes
    )


def fill(build, seed=0):
    """Builds a module with numpy's random numbers, biases and norms included; compiles nothing."""
    graph, state = nnx.split(nnx.eval_shape(build))
    rng = np.random.default_rng(seed)

    def draw(name, leaf):
        value = rng.normal(0, 0.25, leaf.shape) + name.endswith("norm_scale")
        return jnp.asarray(value, leaf.dtype)

    return nnx.merge(graph, trees.map_with_name(draw, nnx.to_pure_dict(state)))


def make_model(seed=0, **changes):
    return fill(lambda: VLM(make_config(**changes), VOCABULARY, nnx.Rngs(0)), seed)


@functools.partial(jax.jit, static_argnames=("graph", "prefix"))
def _logits(graph, params, images, tokens, length, prefix):
    return nnx.merge(graph, params).logits(images, tokens, length, prefix)


class Inputs:
    """Prefixes of 3 and 5 tokens in 5 slots, suffixes of 4 slots, `views` images each."""

    prefix = 5

    def __init__(self, views=1, seed=0):
        rng = np.random.default_rng(seed)
        self.images = jnp.asarray(rng.integers(0, 256, (2, views, 8, 8, 3)), jnp.uint8)
        tokens = rng.integers(4, VOCABULARY, (2, 9))
        tokens[0, :2] = 0
        self.tokens = jnp.asarray(tokens, jnp.int32)
        self.length = jnp.array([3, 5], jnp.int32)

    def logits(self, model, **changes):
        values = {"images": self.images, "tokens": self.tokens, "prefix": self.prefix} | changes
        graph, state = nnx.split(model)
        params = nnx.to_pure_dict(state)
        return np.asarray(_logits(graph, params, length=self.length, **values))


@pytest.fixture
def inputs():
    return Inputs()


@pytest.fixture(scope="session")
def model():
    return make_model()


@pytest.fixture(scope="session")
def build_model():
    return make_model


@pytest.fixture(scope="session")
def build_config():
    return make_config


@pytest.fixture(scope="session")
def build_inputs():
    return Inputs


@pytest.fixture(scope="session")
def filled():
    return fill
