"""RT-1's model where the authors' numbers do not reach: training, decoding, sharding, dtypes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models import rt1, rt1_config
from vla_jax.models.efficientnet import EfficientNetConfig, Stage
from vla_jax.models.lora import Lora, LoraConfig
from vla_jax.models.vlm import logical_axes
from vla_jax.runtime import sharding

CONFIG = dataclasses.replace(
    rt1_config.RT1_TINY,
    vision=dataclasses.replace(
        rt1_config.RT1_TINY.vision,
        image_size=16,
        stages=(
            Stage(filters=8, stride=2, expansion=2),
            Stage(filters=8, expansion=2),
        ),
        stem=8,
        top=16,
        drop_connect=0.5,
    ),
    context=8,
    image_features=16,
    image_tokens=3,
    action_tokens=4,
    vocabulary=12,
    width=16,
    depth=2,
    heads=2,
    head_dim=8,
    mlp=24,
    dropout=0.2,
    unroll=1,
)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, 2, 16, 16, 3)).astype(np.uint8)
CONTEXT = RNG.normal(size=(8, 2, 8)).astype(np.float32)
TOKENS = RNG.integers(0, 12, (8, 2, 4)).astype(np.int32)


def make(**changes):
    """Returns a model whose parameters are all random: FiLM begins as the identity."""
    config = dataclasses.replace(CONFIG, **changes)
    graph, state = nnx.split(nnx.eval_shape(lambda: rt1.RT1(config, nnx.Rngs(0))))
    rng = np.random.default_rng(1)

    def draw(name, leaf):
        value = rng.normal(0, 0.25, leaf.shape) + name.endswith(("norm_scale", "norm/scale"))
        return jnp.asarray(np.abs(value) + 0.5 if name.endswith("variance") else value, leaf.dtype)

    return nnx.merge(graph, trees.map_with_name(draw, nnx.to_pure_dict(state)))


@functools.partial(jax.jit, static_argnames="graph")
def _forward(graph, values, images, context, tokens, key):
    return nnx.merge(graph, values)(images, context, tokens, key=key)


def forward(model, images=IMAGES, context=CONTEXT, tokens=None, key=None):
    graph, state = nnx.split(model)
    return _forward(graph, nnx.to_pure_dict(state), images, context, tokens, key)


def test_the_action_of_one_frame_does_not_depend_on_later_ones():
    model = make()
    before = forward(model, IMAGES, CONTEXT)
    later = IMAGES.copy()
    later[:, 1] = 255 - later[:, 1]
    after = forward(model, later, CONTEXT)
    np.testing.assert_array_equal(before[:, 0], after[:, 0])
    assert np.abs(before[:, 1] - after[:, 1]).max() > 1e-3


def test_instructions_matter():
    model = make()
    assert np.abs(forward(model, IMAGES, CONTEXT) - forward(model, IMAGES, -CONTEXT)).max() > 1e-3


def test_tokens_in_parallel_see_no_actions():
    model = make()
    np.testing.assert_array_equal(
        forward(model, IMAGES, CONTEXT), forward(model, IMAGES, CONTEXT, TOKENS)
    )


def test_previous_actions_reach_later_frames_alone():
    model = make(previous_actions=True)
    other = TOKENS.copy()
    other[:, 0] = (other[:, 0] + 1) % 12
    before, after = forward(model, IMAGES, CONTEXT, TOKENS), forward(model, IMAGES, CONTEXT, other)
    np.testing.assert_array_equal(before[:, 0, 0], after[:, 0, 0])
    assert (np.abs(before[:, 1] - after[:, 1]).max(axis=(0, 2)) > 1e-4).all()
    other = TOKENS.copy()
    other[:, 1] = (other[:, 1] + 1) % 12  # that of the last frame is what is asked
    np.testing.assert_array_equal(before, forward(model, IMAGES, CONTEXT, other))


@pytest.mark.parametrize("previous", [False, True])
def test_autoregressive_tokens_see_those_before_them(previous):
    model = make(autoregressive=True, previous_actions=previous)
    other = TOKENS.copy()
    other[:, 1, 2] = (other[:, 1, 2] + 1) % 12
    before, after = forward(model, IMAGES, CONTEXT, TOKENS), forward(model, IMAGES, CONTEXT, other)
    np.testing.assert_array_equal(before[:, 1, :3], after[:, 1, :3])
    assert np.abs(before[:, 1, 3] - after[:, 1, 3]).max() > 1e-4


@pytest.mark.parametrize("previous", [False, True])
def test_autoregressive_decoding_is_greedy_at_every_token(previous):
    model = make(autoregressive=True, previous_actions=previous)
    decode = jax.jit(lambda images, tokens: model.decode(model.encode(images, CONTEXT), tokens))
    found = decode(IMAGES, TOKENS)
    assert found.dtype == jnp.int32
    given = TOKENS.copy()
    given[:, 1] = found
    likeliest = forward(model, IMAGES, CONTEXT, given)[:, 1].argmax(-1)
    np.testing.assert_array_equal(found, likeliest)
    assert len(np.unique(found)) > 1


def test_a_model_that_takes_actions_has_to_be_given_them():
    with pytest.raises(ValueError, match="takes the tokens"):
        forward(make(previous_actions=True))


def test_training_updates_statistics_that_no_gradient_reaches():
    model = make()
    graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    held = nnx.to_pure_dict(statistics)
    assert {name.rpartition("/")[2] for name in trees.named_leaves(held)} == {"mean", "variance"}

    @functools.partial(jax.jit, static_argnames="train")
    def step(params, statistics, train):
        model = nnx.merge(graph, params, statistics, copy=True)
        logits = model(IMAGES, CONTEXT, train=train)
        return rt1.loss(logits, TOKENS).mean(), nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    _, new = step(params, statistics, train=True)
    pixels = model.vision.normalize(IMAGES.reshape(-1, 16, 16, 3))
    stem = jax.lax.conv_general_dilated(
        pixels, model.vision.stem[...], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    norm, old = new["vision"]["stem_norm"], held["vision"]["stem_norm"]
    for name, value in {"mean": stem.mean((0, 1, 2)), "variance": stem.var((0, 1, 2))}.items():
        expected = 0.99 * old[name] + 0.01 * value
        np.testing.assert_allclose(norm[name], expected, rtol=1e-5, atol=1e-6)
    evaluated = step(params, statistics, train=False)[1]
    jax.tree.map(np.testing.assert_array_equal, evaluated, held)


def test_dropout_is_a_function_of_the_key():
    model = make()
    first, again, other = (
        forward(model, IMAGES, CONTEXT, key=jax.random.key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert np.abs(first - forward(model, IMAGES, CONTEXT)).max() > 1e-3
    still = make(dropout=0.0, vision=dataclasses.replace(CONFIG.vision, drop_connect=0.0))
    found = forward(still, IMAGES, CONTEXT, key=jax.random.key(0))
    np.testing.assert_allclose(found, forward(still, IMAGES, CONTEXT), rtol=1e-6, atol=1e-6)


def test_bfloat16_is_near():
    exact, half = forward(make()), forward(make(dtype="bfloat16"))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, exact, atol=0.15 * float(np.abs(exact).max()))


def test_losses_of_some_frames():
    logits = RNG.normal(size=(2, 2, 4, 12)).astype(np.float32)
    tokens = TOKENS[:2]
    valid = np.array([[False, True], [True, True]])
    found = rt1.loss(logits, tokens, valid)
    np.testing.assert_allclose(found[0], rt1.loss(logits[:1, 1:], tokens[:1, 1:])[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], rt1.loss(logits, tokens)[1], rtol=1e-6)
    even = rt1.loss(np.zeros((1, 1, 1, 12), np.float32), np.zeros((1, 1, 1), np.int32))
    np.testing.assert_allclose(even, np.log(12), rtol=1e-6)


def test_eight_devices_compute_what_one_does():
    """Statistics of BatchNorm are those of the whole batch, wherever its examples lie."""
    model = make()
    graph, state = nnx.split(model)
    values = nnx.to_pure_dict(state)

    @jax.jit
    def step(values, images, context):
        model = nnx.merge(graph, values)
        logits = model(images, context, train=True)
        return logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    expected = step(values, IMAGES, CONTEXT)
    names = ("slice", "data", "fsdp", "tensor")
    mesh = jax.sharding.Mesh(np.reshape(jax.devices(), (1, 2, 2, 2)), names)
    places = sharding.shardings(values, logical_axes(model), mesh)
    batch = sharding.batch_sharding(mesh)
    with jax.set_mesh(mesh):
        found = step(
            jax.device_put(values, places),
            jax.device_put(IMAGES, batch),
            jax.device_put(CONTEXT, batch),
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


def test_no_axis_is_without_a_rule():
    model = nnx.eval_shape(lambda: rt1.RT1(CONFIG, nnx.Rngs(0)))
    mesh = jax.sharding.Mesh(
        np.reshape(jax.devices()[:1], (1, 1, 1, 1)), ("slice", "data", "fsdp", "tensor")
    )
    abstract = nnx.to_pure_dict(nnx.state(model))
    assert sharding.fallbacks(abstract, logical_axes(model), mesh) == []


def test_adapters_of_all_matrices_of_the_transformer():
    model = make()
    values = nnx.to_pure_dict(nnx.state(model))
    lora = Lora(values, logical_axes(model), LoraConfig(rank=2))
    assert {name.partition("/")[0] for name in lora.targets} == {"blocks"}
    chosen = LoraConfig(rank=2, targets=r"vision/block\d+/(expand|project)|blocks/query")
    lora = Lora(values, logical_axes(model), chosen)
    adapters = jax.tree.map(lambda leaf: leaf + 0.05, lora.init(jax.random.key(0)))
    graph = nnx.split(model)[0]
    joined, merged = (
        forward(nnx.merge(graph, join(values, adapters))) for join in (lora.join, lora.merge)
    )
    np.testing.assert_allclose(joined, merged, atol=1e-4)
    assert np.abs(joined - forward(model, IMAGES, CONTEXT)).max() > 1e-3


def test_maps_as_tokens_have_to_be_as_many():
    with pytest.raises(UserError, match="image_tokens without a token_learner: expected 16"):
        dataclasses.replace(CONFIG, token_learner=False)
    assert EfficientNetConfig().grid == 10
    assert rt1_config.RT1_TINY.vision.grid == 6


def test_numbers_of_filters_and_blocks_of_b3():
    config = EfficientNetConfig()
    assert [config.filters(n) for n in (32, 16, 24, 40, 80, 112, 192, 320, 1280)] == [
        *(40, 24, 32, 48, 96, 136, 232, 384, 1536)
    ]
    assert len(config.blocks) == 26
