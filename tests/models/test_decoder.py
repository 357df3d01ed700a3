import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.core.errors import UserError
from vla_jax.models import attention
from vla_jax.models.decoder import Decoder, DecoderConfig

SIZES = {"width": 16, "depth": 2, "mlp": 32, "heads": 4, "head_dim": 8}
PREFIX, SLOTS = 3, 6


@pytest.fixture
def make(filled):
    def make(key_heads=4):
        config = DecoderConfig(**SIZES, key_heads=key_heads)
        return filled(lambda: Decoder(config, 20, nnx.Rngs(0), jnp.dtype("float32")))

    return make


def influence(decoder, valid, everyone=PREFIX):
    """bool [q, k]: does embedding k change hidden state q, by the gradient."""
    valid = jnp.asarray([valid], bool)
    positions = attention.valid_positions(valid)
    mask = attention.Mask(valid=valid, everyone=everyone)
    x = jax.random.normal(jax.random.key(0), (1, SLOTS, 16))
    jacobian = jax.jit(jax.jacrev(lambda x: decoder(x, positions, mask)[0]))(x)
    return np.abs(jacobian[0, :, :, 0]).max(axis=(1, 3)) > 1e-7


@pytest.mark.parametrize(
    ("key_heads", "everyone"),
    [(1, PREFIX), (4, PREFIX), (2, 0), (4, 2)],  # the last two are causal and image_only
)
def test_gradients_flow_over_what_everyone_sees_and_causally_after_it(make, key_heads, everyone):
    expected = np.tril(np.ones((SLOTS, SLOTS), bool))
    expected[:, :everyone] = True
    found = influence(make(key_heads), [1] * SLOTS, everyone)
    np.testing.assert_array_equal(found, expected)


def test_padding_influences_nothing_but_itself(make):
    found = influence(make(), [0, 1, 1, 1, 1, 1])
    assert found[:, 0].tolist() == [True] + [False] * 5
    assert found[1:, 1:PREFIX].all()


def test_shared_key_heads_equal_repeated_ones(make):
    shared, full = make(key_heads=1), make(key_heads=4)
    graph, _ = nnx.split(full)
    params = nnx.to_pure_dict(nnx.state(shared))
    for name in ("key", "value"):
        params["blocks"][name] = jnp.repeat(params["blocks"][name], 4, axis=2)
    full = nnx.merge(graph, params)
    valid = jnp.ones((1, SLOTS), bool)
    arguments = (
        jax.random.normal(jax.random.key(1), (1, SLOTS, 16)),
        attention.valid_positions(valid),
        attention.Mask(valid=valid, everyone=PREFIX),
    )
    call = nnx.jit(Decoder.__call__)
    found, expected = (call(decoder, *arguments)[0] for decoder in (shared, full))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_embeddings_are_scaled_and_tied_to_the_output(make):
    decoder = make()
    table = np.asarray(decoder.embedding[...])
    rows = decoder.embed(jnp.array([[3, 7]]), jnp.dtype("float32"))
    np.testing.assert_allclose(rows[0], table[[3, 7]] * 4, rtol=1e-6)
    hidden = jax.random.normal(jax.random.key(2), (1, 2, 16))
    np.testing.assert_allclose(decoder.logits(hidden)[0], hidden[0] @ table.T, rtol=1e-4, atol=1e-5)


def test_logits_are_float32_whatever_the_computation(make):
    hidden = jnp.ones((1, 2, 16), jnp.bfloat16)
    assert make().logits(hidden).dtype == jnp.float32


@pytest.mark.parametrize("sizes", [{"heads": 4, "key_heads": 3}, {"head_dim": 7}])
def test_heads_that_do_not_fit_are_refused(sizes):
    with pytest.raises(UserError, match=r"config\.model\.decoder: expected key_heads divides"):
        DecoderConfig(**sizes)
