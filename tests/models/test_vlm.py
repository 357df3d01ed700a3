import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.core import trees
from vla_jax.models import vlm
from vla_jax.models.vlm import VLM
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.runtime import sharding


def test_one_row_of_float32_logits_per_suffix_slot(model, inputs):
    logits = inputs.logits(model)
    assert logits.shape == (2, 4, 40)
    assert logits.dtype == np.float32


def test_a_suffix_token_changes_later_logits_only(model, inputs):
    before = inputs.logits(model)
    for j in range(4):
        tokens = inputs.tokens.at[:, 5 + j].set(39 - inputs.tokens[:, 5 + j])
        changed = np.abs(inputs.logits(model, tokens=tokens) - before).max(axis=(0, 2))
        assert (changed[: j + 1] == 0).all()
        assert (changed[j + 1 :] > 1e-4).all()


def test_every_prefix_token_and_every_view_change_all_logits(build_model, build_inputs):
    model, inputs = build_model(), build_inputs(views=2)
    before = inputs.logits(model)
    for j in range(5):
        tokens = inputs.tokens.at[:, j].set(39 - inputs.tokens[:, j])
        changed = np.abs(inputs.logits(model, tokens=tokens) - before).max(axis=2)
        assert (changed[1] > 1e-5).all()
        # the first example has 3 tokens in 5 slots: the first two are padding
        assert (changed[0] == 0).all() if j < 2 else (changed[0] > 1e-5).all()
    for view in range(2):
        images = inputs.images.at[:, view].set(255 - inputs.images[:, view])
        assert (np.abs(inputs.logits(model, images=images) - before).max(axis=2) > 1e-5).all()


@pytest.mark.parametrize("unroll", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_absent_view_is_as_if_it_were_not_there(build_model, build_inputs, unroll):
    model, inputs = build_model(unroll=unroll), build_inputs(views=2)
    mask = jnp.array([[True, False], [False, True]])
    arguments = (inputs.tokens, inputs.length, inputs.prefix)
    found = model.logits(inputs.images, *arguments, mask)
    for row, view in enumerate((0, 1)):
        alone = model.logits(inputs.images[:, view : view + 1], *arguments)
        np.testing.assert_allclose(found[row], alone[row], atol=1e-5)
    both = model.logits(inputs.images, *arguments, jnp.ones((2, 2), bool))
    assert np.abs(both - found).max() > 1e-3
    np.testing.assert_array_equal(both, model.logits(inputs.images, *arguments))


def test_more_padding_on_the_left_changes_nothing(model, inputs):
    tokens = jnp.pad(inputs.tokens, [(0, 0), (3, 0)])
    np.testing.assert_allclose(
        inputs.logits(model, tokens=tokens, prefix=8), inputs.logits(model), atol=1e-5
    )


def test_examples_do_not_see_each_other(model, inputs):
    images = inputs.images.at[1].set(0)
    tokens = inputs.tokens.at[1].set(9)
    np.testing.assert_allclose(
        inputs.logits(model, images=images, tokens=tokens)[0], inputs.logits(model)[0], atol=1e-6
    )


@pytest.mark.parametrize(
    ("key_heads", "unroll", "views"), [(4, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 3)]
)
def test_cached_logits_equal_teacher_forced_ones(
    build_model, build_inputs, key_heads, unroll, views
):
    model = build_model(key_heads=key_heads, unroll=unroll)
    inputs = build_inputs(views=views)
    expected = inputs.logits(model)
    prefix, suffix = inputs.tokens[:, :5], inputs.tokens[:, 5:]
    logits, cache = nnx.jit(vlm.VLM.prefill, static_argnames="slots")(
        model, inputs.images, prefix, inputs.length, slots=3
    )
    found = [logits]
    step = nnx.jit(vlm.VLM.step)
    for n in range(3):
        logits, cache = step(model, suffix[:, n : n + 1], cache)
        found.append(logits)
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, atol=1e-5)
    assert int(cache.index) == 4 * views + 5 + 3


@pytest.mark.parametrize(
    "changes",
    [
        {"remat": "dots"},
        pytest.param({"remat": "full"}, marks=pytest.mark.slow),
        # Of two layers: the last computes the suffix only.
        pytest.param({"unroll": 2}, marks=pytest.mark.slow),
        {"unroll": 2, "remat": "full"},
    ],
)
def test_remat_and_unrolling_leave_losses_and_gradients_alone(build_model, inputs, changes):
    def measure(**options):
        graph, state = nnx.split(build_model(**options))

        def loss(params):
            model = nnx.merge(graph, params)
            logits = model.logits(inputs.images, inputs.tokens, inputs.length, inputs.prefix)
            return jnp.mean(jax.nn.logsumexp(logits, -1) ** 2)

        return jax.jit(jax.value_and_grad(loss))(nnx.to_pure_dict(state))

    expected, found = measure(), measure(**changes)
    assert float(found[0]) > 1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected
    )


def test_half_precision_computes_near_full_and_keeps_float32_parameters(build_model, inputs):
    half = build_model(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(half))} == {jnp.dtype("float32")}
    logits = inputs.logits(half)
    assert logits.dtype == np.float32
    error = np.abs(logits - inputs.logits(build_model()))
    assert 0 < error.max() < 0.2


def test_parameters_are_a_function_of_the_seed(build_config):
    expected, same, other = (
        trees.named_leaves(nnx.to_pure_dict(nnx.state(VLM(build_config(), 40, nnx.Rngs(seed)))))
        for seed in (0, 0, 1)
    )
    for name, leaf in expected.items():
        np.testing.assert_array_equal(same[name], leaf)
        random = np.ptp(leaf) > 0
        assert random == ("norm" not in name and "bias" not in name), name
        assert not (random and np.array_equal(other[name], leaf)), name


@pytest.mark.parametrize("stem", [{}, {"stem_strides": (2, 2), "stem_widths": (6,)}])
def test_every_parameter_names_each_of_its_axes_and_every_axis_has_a_rule(build_config, stem):
    config = build_config()
    config = dataclasses.replace(config, vision=dataclasses.replace(config.vision, **stem))
    model = nnx.eval_shape(lambda: VLM(config, 40, nnx.Rngs(0)))
    axes = vlm.logical_axes(model)
    params = nnx.to_pure_dict(nnx.state(model))
    named = trees.named_leaves(params)
    assert len(named) > 30

    def check(name, leaf, names):
        assert len(names) == leaf.ndim, name
        assert set(names) <= set(sharding.RULES), name
        return name

    trees.map_with_name(check, params, axes)


def test_the_defaults_are_paligemma_3b():
    def count(vocabulary):
        model = nnx.eval_shape(lambda: VLM(VLMConfig(), vocabulary, nnx.Rngs(0)))
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))

    # The published checkpoint (google/paligemma-3b-pt-224) pads its vocabulary to 257216 rows.
    assert count(257_216) == 2_923_466_480
    assert count(257_152) == 2_923_466_480 - 64 * 2048
