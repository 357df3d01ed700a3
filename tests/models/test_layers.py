import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.models import layers

X = np.random.default_rng(0).normal(2, 3, (2, 5, 8)).astype(np.float32)


class Affine(nnx.Module):
    """y = x @ kernel + bias, the smallest block."""

    def __init__(self, init):
        self.kernel = init.normal((8, 8), ("embed", "mlp"), 0.5)
        self.bias = init.constant((8,), ("mlp",), 1)

    def __call__(self, x):
        return jnp.tanh(layers.dense(x, self.kernel, self.bias))


def test_rms_norm_is_the_published_formula():
    scale = np.linspace(-0.5, 0.5, 8).astype(np.float32)
    expected = X / np.sqrt((X**2).mean(-1, keepdims=True) + 1e-6) * (1 + scale)
    np.testing.assert_allclose(layers.rms_norm(X, 1 + scale), expected, rtol=1e-5)


def test_layer_norm_is_the_published_formula():
    scale, bias = np.linspace(0.5, 2, 8, dtype=np.float32), np.arange(8, dtype=np.float32)
    expected = (X - X.mean(-1, keepdims=True)) / np.sqrt(X.var(-1, keepdims=True) + 1e-6)
    expected = expected * scale + bias
    np.testing.assert_allclose(layers.layer_norm(X, scale, bias), expected, rtol=1e-4, atol=1e-5)


def test_norms_work_in_float32_and_return_the_dtype_of_their_input():
    ones = jnp.ones(8)
    # The squares of these overflow in float16.
    large = jnp.asarray(X * 1000, jnp.float16)
    for y in (layers.rms_norm(large, ones), layers.layer_norm(large, ones, 0 * ones)):
        assert y.dtype == jnp.float16
        assert np.abs(np.asarray(y, np.float32)).max() < 4
        np.testing.assert_allclose(np.square(np.asarray(y, np.float32)).mean(), 1, rtol=0.3)


def test_activations():
    x = jnp.array([-2.0, 0.0, 1.0])
    np.testing.assert_allclose(layers.activate(x, "relu"), [0, 0, 1])
    np.testing.assert_allclose(layers.activate(x, "gelu"), [-0.0454, 0, 0.8412], atol=1e-4)


def test_dense_computes_in_the_dtype_of_its_input():
    kernel, bias = nnx.Param(jnp.ones((8, 3))), nnx.Param(jnp.array([1.0, 2, 3]))
    y = layers.dense(jnp.asarray(X, jnp.bfloat16), kernel, bias)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        layers.dense(X, kernel, bias), X.sum(-1, keepdims=True) + np.array([1, 2, 3]), rtol=1e-5
    )


def test_initializer_draws_the_given_deviation_and_stacks_layers():
    init = layers.Initializer(nnx.Rngs(0), jnp.dtype("float32"), layers=3)
    kernel = init.normal((64, 64), ("embed", "mlp"), 0.25)
    assert kernel.shape == (3, 64, 64)
    assert kernel.get_metadata("axes") == ("layers", "embed", "mlp")
    np.testing.assert_allclose(kernel[...].std(axis=(1, 2)), [0.25] * 3, rtol=0.05)
    assert not np.array_equal(kernel[0], kernel[1])
    assert init.constant((4,), ("norm",), 2).get_metadata("axes") == ("layers", "norm")


@pytest.mark.parametrize("unroll", [1, 3])
@pytest.mark.parametrize("remat", ["none", "dots", "narrow", "full"])
def test_a_stack_is_a_loop_over_its_layers(remat, unroll):
    block = Affine(layers.Initializer(nnx.Rngs(0), jnp.dtype("float32"), layers=3))
    shift = jnp.arange(3.0)

    def call(layer, x, extra):
        y = layer(x) + extra
        return y, y.sum()

    def loop(x):
        sums = []
        for i in range(3):
            x = jnp.tanh(x @ block.kernel[i] + block.bias[i][None, None]) + shift[i]
            sums.append(x.sum())
        return x, jnp.stack(sums)

    def scan(x):
        return layers.run_stack(block, call, x, shift, remat=remat, unroll=unroll)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), jax.jit(scan)(X), jax.jit(loop)(X)
    )
    found, expected = (jax.jit(jax.grad(lambda x, f=f: f(x)[0].sum()))(X) for f in (scan, loop))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
