"""Analytic FLOPs against every matrix product in the traced model, and against the compiler."""

import dataclasses
import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.models import flops, variants
from vla_jax.models.decoder import DecoderConfig
from vla_jax.models.vit import ViTConfig
from vla_jax.models.vlm import VLM
from vla_jax.models.vlm_config import VLMConfig

VOCABULARY = 4096
SLOTS = {"images": 2, "prefix": 24, "suffix": 8}

TINY = VLMConfig(
    vision=ViTConfig(image_size=56, width=128, depth=2, heads=4, mlp=256),
    decoder=DecoderConfig(width=128, depth=3, mlp=512, heads=4, key_heads=1, head_dim=32),
    dtype="float32",
    remat="none",
)
CASES = {name: (config, 1) for name, config in variants.variants().items()} | {
    "two images": (TINY, 2),
    "state": (dataclasses.replace(TINY, state=7), 1),
    "shuffle": (dataclasses.replace(TINY, shuffle=2), 1),
    "unrolled": (dataclasses.replace(TINY, unroll=3), 2),
}


def inputs(config, images, slots, batch=1):
    side = config.vision.image_size
    shape = jax.ShapeDtypeStruct
    text = slots["prefix"] + slots["suffix"]
    state = (shape((batch, config.state), jnp.float32),) if config.state else ()
    return (
        shape((batch, images, side, side, 3), jnp.uint8),
        shape((batch, text), jnp.int32),
        shape((batch,), jnp.int32),
        *state,
    )


def traced(config, call, arguments, vocabulary=VOCABULARY):
    """Returns the FLOPs of all matrix products of `call(model, *arguments)`: plain and batched."""
    graph, state = nnx.split(nnx.eval_shape(lambda: VLM(config, vocabulary, nnx.Rngs(params=0))))
    run = lambda state, *a: call(nnx.merge(graph, state), *a)  # noqa: E731
    return products(jax.make_jaxpr(run)(state, *arguments).jaxpr)


def products(jaxpr):
    plain = batched = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), (batch, _) = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            size = 2 * math.prod(equation.outvars[0].aval.shape)
            size *= math.prod(left[axis] for axis in contracted)
            plain, batched = (plain, batched + size) if batch else (plain + size, batched)
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            a, b = products(inner)
            plain, batched = plain + times * a, batched + times * b
    return plain, batched


@pytest.mark.parametrize(("config", "images"), CASES.values(), ids=CASES)
def test_every_component_is_the_sum_of_its_matrix_products(config, images):
    slots = SLOTS | {"images": images}
    if config.images == "inline":
        slots["prefix"] += images * config.image_tokens
    arguments = inputs(config, images, slots)

    def features(model, images, *_):
        return model.features(images[0])

    def encode(model, images, *text_and_state):
        said = [model.state(state) for state in text_and_state[2:]]
        return model.encode(images), said

    def hidden(model, images, tokens, length, *state):
        return model.hidden(images, tokens, length, slots["prefix"], None, *state)

    def logits(model, images, tokens, length, *state):
        return model.logits(images, tokens, length, slots["prefix"], None, *state)

    vision, encoded, seen, all_ = (
        np.array(traced(config, call, arguments)) for call in (features, encode, hidden, logits)
    )
    matrices, attention = seen - encoded
    assert flops.forward(config, VOCABULARY, **slots) == {
        "vision": vision.sum(),
        "projector": (encoded - vision).sum(),
        "decoder": matrices,
        "attention": attention,
        "head": (all_ - seen).sum(),
    }


def test_the_compiler_counts_the_same():
    config = dataclasses.replace(TINY, unroll=3)
    arguments = inputs(config, SLOTS["images"], SLOTS, batch=4)
    graph, state = nnx.split(nnx.eval_shape(lambda: VLM(config, VOCABULARY, nnx.Rngs(params=0))))

    def logits(state, *arguments):
        return nnx.merge(graph, state).logits(*arguments, SLOTS["prefix"])

    def gradient(state, *arguments):
        return jax.grad(lambda state: logits(state, *arguments).sum())(state)

    wanted = flops.forward(config, VOCABULARY, **SLOTS)
    for function, expected in (
        (logits, wanted),
        (gradient, flops.training(wanted)),
    ):
        counted = jax.jit(function).lower(state, *arguments).compile().cost_analysis()["flops"]
        assert 4 * sum(expected.values()) == pytest.approx(counted, rel=0.05)


def test_frozen_parameters_save_their_gradients_and_what_no_gradient_crosses():
    forward = {"vision": 10.0, "projector": 1.0, "decoder": 20.0, "attention": 2.0, "head": 4.0}
    assert flops.training(forward) == {name: 3 * value for name, value in forward.items()}
    frozen_vision = flops.training(forward, {"vision": 0}, {"vision": 0})
    assert frozen_vision == flops.training(forward) | {"vision": 10.0}
    # LoRA: gradients cross everything, and no matrix has one.
    nothing = dict.fromkeys(flops.COMPONENTS, 0.0)
    assert sum(flops.training(forward, nothing).values()) == 3 * 2 + 2 * 35


def test_what_is_trained_is_found_by_name():
    sizes = {
        "vision/blocks/up": 30,
        "vision/stem0": 10,
        "projector/kernel0": 8,
        "decoder/embedding": 100,
        "decoder/blocks/query": 60,
        "decoder/norm": 4,
    }
    everything = dict.fromkeys(flops.COMPONENTS, 1.0)
    trained, crossed = flops.shares(sizes, sizes)
    assert trained | {"attention": 1.0} == crossed == everything
    # The last layer and a tied embedding, at whose gradients the whole decoder is crossed.
    trained, crossed = flops.shares(sizes, {"decoder/blocks/query": 16, "decoder/embedding": 100})
    assert trained == {"vision": 0, "projector": 0, "decoder": 0.25, "attention": 0, "head": 1}
    assert crossed == everything | {"vision": 0, "projector": 0}
    # An embedding of its own is looked up and not multiplied.
    untied = sizes | {"decoder/head": 100}
    trained, crossed = flops.shares(untied, {"decoder/embedding": 100})
    assert trained["head"] == trained["decoder"] == 0
    assert crossed["decoder"] == crossed["head"] == 1
    # The output matrix alone: nothing is crossed but itself.
    trained, crossed = flops.shares(untied, {"decoder/head": 100})
    assert crossed == dict.fromkeys(flops.COMPONENTS, 0.0) | {"head": 1.0}
    assert trained == crossed


def test_remat_runs_the_layers_again():
    forward = flops.forward(TINY, VOCABULARY, **SLOTS)
    layers = forward["vision"] + forward["decoder"] + forward["attention"]
    for remat, again in {"none": 0, "dots": forward["attention"], "full": layers}.items():
        assert flops.recomputed(dataclasses.replace(TINY, remat=remat), forward) == again


def test_narrow_remat_makes_hidden_features_again():
    config = dataclasses.replace(variants.PALIGEMMA_3B, remat="narrow")
    forward = flops.forward(config, 257_152, images=1, prefix=48, suffix=16)
    tokens, tower, decoder = 256 + 48 + 15, config.vision, config.decoder
    again = flops.recomputed(config, forward) - forward["attention"]
    hidden = 2 * tokens * decoder.depth * 2 * decoder.width * decoder.mlp
    hidden += 2 * 256 * tower.depth * tower.width * tower.mlp
    # The share is taken of all of a tower, patches and attention too: 4% of it.
    assert again == pytest.approx(hidden, rel=0.01)
