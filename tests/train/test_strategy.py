"""What is trained under each strategy, and that all of them compute the same model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from vla_jax.core import trees
from vla_jax.models import kernels, vlm
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.lora import LoraConfig
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.train.strategy import Strategy, StrategyConfig

KINDS = ("full", "frozen_vision", "last_layer", "sandwich", "lora", "qlora")
CONFIG = VLMConfig(
    vision=ViTConfig(image_size=8, patch_size=4, width=16, depth=2, heads=2, mlp=32),
    decoder=DecoderConfig(width=16, depth=3, mlp=32, heads=4, key_heads=2, head_dim=8),
    dtype="float32",
)
PREFIX, VOCABULARY = 4, 32


@functools.cache
def model():
    return vlm.VLM(CONFIG, VOCABULARY, nnx.Rngs(0))


def take_apart(kind, dtype="float32", quantization="int8"):
    """Returns strategy, trained and frozen parameters, and all of them."""
    params = nnx.to_pure_dict(nnx.state(model()))
    config = StrategyConfig(kind=kind, lora=LoraConfig(rank=2), quantization=quantization)
    abstract = jax.eval_shape(lambda: params)
    strategy = Strategy(config, abstract, vlm.logical_axes(model()), jnp.dtype(dtype))
    return strategy, *strategy.split(params, jax.random.key(1)), params


def logits(params):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 1, 8, 8, 3)).astype(np.uint8)
    tokens = rng.integers(4, VOCABULARY, (2, PREFIX + 3)).astype(np.int32)
    length = np.array([4, 2], np.int32)
    return nnx.merge(nnx.split(model())[0], params).logits(images, tokens, length, PREFIX)


def test_each_strategy_trains_its_parameters():
    trained = {kind: set(trees.named_leaves(take_apart(kind)[1])) for kind in KINDS}
    everything = trained["full"]
    vision = {name for name in everything if name.startswith("vision/")}
    stack = {name for name in everything if name.startswith("decoder/blocks/")}
    output = {"decoder/embedding", "decoder/norm"}
    assert trained["frozen_vision"] == everything - vision
    assert trained["last_layer"] == stack | output
    assert trained["sandwich"] == everything
    assert trained["lora"] == trained["qlora"]
    assert all(name[-2:] in ("/a", "/b") for name in trained["lora"])
    for kind in ("last_layer", "sandwich"):
        _, leaves, frozen, _ = take_apart(kind)
        assert leaves["decoder"]["blocks"]["query"].shape[0] == 1
        assert frozen["decoder"]["blocks"]["query"].shape[0] == 2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "qlora"])
def test_apart_and_together_it_is_the_same_model(kind):
    strategy, trained, frozen, params = take_apart(kind)
    np.testing.assert_allclose(logits(strategy.join(trained, frozen)), logits(params), atol=2e-6)
    jax.tree.map(np.testing.assert_array_equal, strategy.merge(trained, frozen), params)
    for part, axes in (
        (strategy.trained, strategy.trained_axes),
        (strategy.frozen, strategy.frozen_axes),
    ):
        for leaf, names in zip(
            jax.tree.leaves(part),
            jax.tree.leaves(axes, is_leaf=lambda x: type(x) is tuple),
            strict=True,
        ):
            assert len(names) == leaf.ndim


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_adapters_beside_their_base_are_adapters_merged_into_it(kind):
    strategy, trained, frozen, _ = take_apart(kind)
    rng = np.random.default_rng(0)
    trained = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype), trained)
    beside = logits(strategy.join(trained, frozen))
    merged = logits(strategy.merge(trained, frozen))
    assert float(jnp.std(merged)) > 0.1
    np.testing.assert_allclose(beside, merged, atol=2e-5)

    # So do their gradients, and the base takes none.
    def through(combine):
        return jax.grad(lambda leaves: jnp.sum(logits(combine(leaves, frozen)) ** 2))(trained)

    found, expected = (trees.named_leaves(through(c)) for c in (strategy.join, strategy.merge))
    for name, gradient in expected.items():
        scale = float(jnp.abs(gradient).max())
        assert scale > 0
        np.testing.assert_allclose(found[name], gradient, atol=1e-4 * scale, err_msg=name)


def test_the_last_layer_is_trained_without_the_gradients_of_the_others():
    strategy, trained, frozen, params = take_apart("last_layer")

    def whole(params):
        return jnp.sum(logits(params) ** 2)

    gradient = jax.grad(lambda leaves: whole(strategy.join(leaves, frozen)))(trained)
    expected = jax.grad(whole)(params)
    query = expected["decoder"]["blocks"]["query"][-1:]
    found = gradient["decoder"]["blocks"]["query"]
    np.testing.assert_allclose(found, query, rtol=1e-3, atol=1e-4 * np.abs(query).max())
    np.testing.assert_allclose(
        gradient["decoder"]["embedding"], expected["decoder"]["embedding"], rtol=1e-3, atol=1e-2
    )


def test_what_is_frozen_sits_in_the_dtype_of_the_computation():
    _, trained, frozen, _ = take_apart("frozen_vision", "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(trained)} == {jnp.dtype("float32")}
    dtypes = {name: leaf.dtype for name, leaf in trees.named_leaves(frozen).items()}
    assert dtypes["vision/blocks/query"] == dtypes["vision/stem0"] == jnp.bfloat16
    assert dtypes["vision/norm_scale"] == dtypes["vision/blocks/query_bias"] == jnp.float32


@pytest.mark.parametrize(("kind", "step", "bits"), [("nf4", 0.152, 4.6), ("int8", 1 / 254, 8.6)])
def test_quantised_matrices_are_close_and_small(kind, step, bits):
    shape, axes = (3, 128, 4, 8), ("layers", "embed", "heads", "head_dim")
    matrix = jax.random.normal(jax.random.key(0), shape)
    block = kernels.block(shape, axes)
    assert block == (1, 64)
    small = kernels.quantize(matrix, *block, kind)
    found = small.dequantize(jnp.float32)
    assert found.shape == shape
    largest = np.abs(matrix.reshape(3, 2, 64, 4, 8)).max(2, keepdims=True)
    error = np.abs(np.asarray(found - matrix).reshape(3, 2, 64, 4, 8)) / largest
    assert error.max() <= step + 1e-6  # half the widest gap between two levels
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(small))
    assert 8 * size / matrix.size < bits
    layer = jax.tree.map(lambda leaf: leaf[1], small)  # as a scan takes it
    np.testing.assert_array_equal(layer.dequantize(jnp.float32), found[1])
    names = kernels.quantized_axes(axes, small)
    assert names.codes == ("layers", "embed", None, "heads", "head_dim")


def test_zeros_stay_zeros_and_odd_inputs_stay_arrays():
    zeros = kernels.quantize(jnp.zeros((4, 6)), 0, 4, "nf4")
    np.testing.assert_array_equal(zeros.dequantize(jnp.float32), np.zeros((4, 6)))
    assert kernels.block((7, 16), ("patch", "embed")) is None
    assert kernels.block((588, 16), ("patch", "embed")) == (0, 42)
    assert kernels.block((16,), ("norm",)) is None


def test_nf4_has_the_quantiles_of_a_normal_distribution():
    # QLoRA, appendix E: eight quantiles on the positive side, seven on the negative, and zero.
    side = 0.9677083
    upper = scipy.stats.norm.ppf(np.linspace(side, 0.5, 9)[:-1])
    lower = -scipy.stats.norm.ppf(np.linspace(side, 0.5, 8)[:-1])
    levels = np.sort([*upper, 0, *lower]) / upper.max()
    codes = jnp.arange(16, dtype=jnp.uint8)
    table = kernels.Quantized(
        codes=codes[:8] | (codes[8:] << 4), scales=jnp.ones(1), kind="nf4", axis=-1
    )
    table = dataclasses.replace(table, codes=table.codes[None], scales=table.scales[None])
    np.testing.assert_allclose(table.dequantize(jnp.float32), levels, atol=1e-6)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_base_learns_as_well(quantization):
    strategy, trained, frozen, params = take_apart("qlora", quantization=quantization)
    blocks = frozen["decoder"]["blocks"]
    assert kernels.is_quantized(blocks["query"])
    assert kernels.is_quantized(blocks["down"])
    assert not kernels.is_quantized(frozen["decoder"]["embedding"])
    expected = logits(params)
    found = logits(strategy.join(trained, frozen))
    off = float(jnp.std(found - expected) / jnp.std(expected))
    assert 0 < off < {"nf4": 0.3, "int8": 0.02}[quantization]
