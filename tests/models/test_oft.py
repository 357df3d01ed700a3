"""What golden data does not say: text beside chunks, absent views, sharding, sizes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models import action_heads, oft
from vla_jax.models.oft import OFT, OFTConfig
from vla_jax.models.vlm import logical_axes
from vla_jax.runtime import sharding

VOCABULARY = 40
CHUNK, DIMS, SLOTS = 3, 2, 6


@pytest.fixture(scope="module")
def build(build_config, filled):
    @functools.cache
    def build(film=False, **changes):
        vlm = build_config(**{"images": "after_bos", "attention": "causal", **changes})
        config = OFTConfig(vlm=vlm, chunk=CHUNK, dims=DIMS, film=film)
        return filled(lambda: OFT(config, VOCABULARY, nnx.Rngs(0)))

    return build


@functools.partial(jax.jit, static_argnames=("graph", "method", "prefix"))
def _run(graph, params, method, args, prefix, options):
    return getattr(nnx.merge(graph, params), method)(*args, prefix, **options)


def run(model, method, inputs, **options):
    graph, state = nnx.split(model)
    tokens = options.pop("tokens", inputs.tokens)
    images = options.pop("images", inputs.images)
    args = (images, tokens, inputs.length)
    params = nnx.to_pure_dict(state)
    return np.asarray(_run(graph, params, method, args, inputs.prefix, options))


def near(a, b):
    np.testing.assert_allclose(a, b, atol=2e-6, rtol=0)


@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize(("images", "attention"), [("after_bos", "causal"), ("first", "prefix_lm")])
def test_text_and_chunks_in_one_batch(build, inputs, film, images, attention):
    """Each row is what it is in a batch of its own kind."""
    model = build(film=film, images=images, attention=attention)
    mixed = run(model, "states", inputs, is_robot=jnp.array([True, False]))
    robot = run(model, "states", inputs)
    text = run(model, "hidden", inputs)
    assert robot.shape == (2, SLOTS + 2, 16)
    near(mixed[0], robot[0])
    near(mixed[1, :4], text[1])
    assert np.abs(mixed[0, :4] - text[0]).max() > 1e-2


def test_a_long_answer_beside_a_chunk(build, inputs):
    """Suffix slots beyond those of the chunk are padding of the robot's row."""
    model = build()
    more = jnp.pad(inputs.tokens, [(0, 0), (0, 9)], constant_values=7)
    mixed = run(model, "states", inputs, tokens=more, is_robot=jnp.array([True, False]))
    near(mixed[0, : SLOTS + 1], run(model, "states", inputs)[0, : SLOTS + 1])
    near(mixed[1], run(model, "hidden", inputs, tokens=more)[1])


def test_the_suffix_of_a_robot_row_is_not_seen(build, inputs):
    model = build()
    near(run(model, "states", inputs), run(model, "states", inputs, tokens=inputs.tokens[:, :5]))


def test_every_slot_sees_all(build, inputs):
    """A change of any token of the prompt, or of the image, reaches all states."""
    model = build()
    first = run(model, "states", inputs)
    changed = inputs.tokens.at[1, inputs.prefix - 2].set(3)
    assert (np.abs(run(model, "states", inputs, tokens=changed)[1] - first[1]).max(-1) > 0).all()
    images = inputs.images.at[1, 0, 0, 0].set(255 - inputs.images[1, 0, 0, 0])
    found = run(model, "states", inputs, images=images)
    assert (np.abs(found[1] - first[1]).max(-1) > 0).all()
    near(found[0], first[0])


@pytest.mark.parametrize("film", [False, True])
def test_an_absent_view_is_no_view(build, inputs, build_inputs, film):
    model = build(film=film)
    two = build_inputs(views=2).images.at[:, :1].set(inputs.images)
    mask = jnp.array([[True, False]] * 2)
    near(run(model, "states", inputs, images=two, image_mask=mask), run(model, "states", inputs))


def test_proprioception_is_needed_and_seen(build, inputs):
    model = build(state=3)
    state = jnp.array([[0.1, 0.2, -0.3], [0.5, 0.5, 0.5]])
    first = run(model, "states", inputs, state=state)
    assert np.abs(run(model, "states", inputs, state=state + 0.1) - first).max() > 1e-3
    with pytest.raises(UserError, match=r"state: expected 3 numbers .*, found none"):
        run(model, "states", inputs)


def test_film_begins_as_nothing(build_config, inputs):
    """New scales and shifts are zero: a pretrained tower says what it said."""
    vlm = build_config(images="after_bos", attention="causal")
    config = OFTConfig(vlm=vlm, chunk=CHUNK, dims=DIMS, film=True)
    model = OFT(config, VOCABULARY, nnx.Rngs(0))
    plain = OFT(dataclasses.replace(config, film=False), VOCABULARY, nnx.Rngs(0))
    near(run(model, "states", inputs), run(plain, "states", inputs))


def test_the_loss_of_a_chunk():
    predicted = jnp.arange(12.0).reshape(2, 3, 2)
    actions = jnp.zeros((2, 3, 2))
    np.testing.assert_allclose(action_heads.l1(predicted, actions), [2.5, 8.5])
    mask = jnp.zeros((2, 3, 2), bool).at[0, 1].set(True)
    np.testing.assert_allclose(action_heads.l1(predicted, actions, mask), [2.5, 0])


@pytest.mark.parametrize("film", [False, True])
def test_eight_devices_compute_what_one_does(build, inputs, film, build_config):
    model = build(film=film, key_heads=4)
    graph, state = nnx.split(model)
    params = nnx.to_pure_dict(state)
    mesh = jax.make_mesh(
        (1, 2, 2, 2),
        ("slice", "data", "fsdp", "tensor"),
        axis_types=(jax.sharding.AxisType.Auto,) * 4,
    )
    places = sharding.shardings(params, logical_axes(model), mesh)
    assert any(not place.is_fully_replicated for place in jax.tree.leaves(places["action_head"]))
    args = (inputs.images, inputs.tokens, inputs.length)
    options = {"is_robot": jnp.array([True, False])}
    with jax.set_mesh(mesh):
        found = _run(graph, jax.device_put(params, places), "states", args, inputs.prefix, options)
    near(found, run(model, "states", inputs, **options))


# Published, or counted from the shapes of the released files.
BASE, FILM = 7_541_237_184, 456_241_920


@pytest.mark.parametrize(
    ("config", "more"),
    [
        (oft.OPENVLA_OFT_7B, 151_117_831 + 16_818_176),
        (oft.OPENVLA_OFT_7B_ALOHA, 268_644_366 + 16_842_752),
        (dataclasses.replace(oft.OPENVLA_OFT_7B_ALOHA, film=True), 268_644_366 + 16_842_752 + FILM),
    ],
)
def test_sizes_as_published(config, more):
    model = nnx.eval_shape(lambda: OFT(config, 32_064, nnx.Rngs(0)))
    assert trees.size(nnx.to_pure_dict(nnx.state(model))) == BASE + more


@pytest.mark.parametrize("config", [oft.OPENVLA_OFT_7B, oft.OPENVLA_OFT_7B_ALOHA])
def test_shapes_of_the_presets(config):
    def act(images, tokens, length, state):
        model = OFT(config, 300, nnx.Rngs(0))
        return model.actions(model.states(images, tokens, length, 30, state=state))

    found = jax.eval_shape(
        act,
        jax.ShapeDtypeStruct((2, 3, 224, 224, 3), jnp.uint8),
        jax.ShapeDtypeStruct((2, 30), jnp.int32),
        jax.ShapeDtypeStruct((2,), jnp.int32),
        jax.ShapeDtypeStruct((2, config.vlm.state), jnp.float32),
    )
    assert found.shape == (2, config.chunk, config.dims)


def test_film_needs_layers(build_config):
    vlm = build_config()
    flat = dataclasses.replace(vlm.vision, depth=0)
    with pytest.raises(UserError, match="film: expected a tower with layers"):
        OFTConfig(vlm=dataclasses.replace(vlm, vision=flat), film=True)
