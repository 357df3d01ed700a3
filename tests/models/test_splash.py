import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import topologies

from vla_jax.models import attention, splash
from vla_jax.runtime import mesh as mesh_lib


@pytest.fixture
def interpreted(monkeypatch):
    """Runs the kernel on a CPU, slowly."""
    make = functools.partial(splash.splash_attention.make_splash_mha, interpret=True)
    monkeypatch.setattr(splash.splash_attention, "make_splash_mha", make)


def draw(batch, queries, keys, heads, groups, size):
    """Query, key, value, and which keys are valid: those that ask, and most others."""
    rng = np.random.default_rng(0)
    shapes = ((queries, heads), (keys, groups), (keys, groups))
    arrays = [jnp.asarray(rng.normal(size=(batch, n, h, size)), jnp.float32) for n, h in shapes]
    valid = rng.random((batch, keys)) < 0.8
    valid[:, -queries:] |= queries < keys
    valid[:, -1] = True
    return arrays, jnp.asarray(valid)


def compare(arrays, valid, everyone, wrap=lambda f: f, **options):
    """Holds values and gradients against XLA's, but for what padding asks."""
    asks = valid[:, -arrays[0].shape[1] :, None, None]
    mask = attention.Mask(valid=valid, everyone=everyone)

    def measure(backend):
        def loss(query, key, value):
            out = attention.attend(query, key, value, mask, backend=backend, **options)
            out = jnp.where(asks, out, 0)
            return jnp.sum(jnp.sin(out)), out

        return jax.jit(jax.value_and_grad(wrap(loss), (0, 1, 2), has_aux=True))(*arrays)

    found, expected = measure("splash"), measure("xla")
    assert np.abs(expected[0][1]).max() > 0.1
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-5)
    jax.tree.map(close, found, expected)


@pytest.mark.parametrize(
    ("queries", "keys", "groups", "everyone", "options"),
    [
        (150, 150, 2, 120, {}),  # prefix-LM; neither length is a multiple of a block
        (17, 150, 1, 134, {"softcap": 2.0, "scale": 0.5}),  # only the suffix asks
        (256, 256, 4, 0, {}),  # causal
    ],
)
def test_splash_equals_xla_in_values_and_gradients(
    interpreted, queries, keys, groups, everyone, options
):
    arrays, valid = draw(2, queries, keys, 4, groups, 8)
    compare(arrays, valid, everyone, **options)


def test_splash_without_a_mask_sees_everything(interpreted):
    (query, key, value), _ = draw(1, 130, 130, 2, 2, 8)
    found, expected = (
        attention.attend(query, key, value, None, backend=backend) for backend in ("splash", "xla")
    )
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_whole_model_trains_through_splash(interpreted, build_model, inputs):
    def measure(backend):
        graph, state = nnx.split(build_model(backend=backend, remat="full", key_heads=2))

        def loss(params):
            model = nnx.merge(graph, params)
            logits = model.logits(inputs.images, inputs.tokens, inputs.length, inputs.prefix)
            return jnp.mean(jax.nn.logsumexp(logits, -1) ** 2)

        return jax.jit(jax.value_and_grad(loss))(nnx.to_pure_dict(state))

    found, expected = measure("splash"), measure("xla")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, expected
    )


def test_decoding_takes_xla_whatever_training_takes(build_model, inputs):
    prefix = inputs.tokens[:, :5]
    found, expected = (
        build_model(backend=backend).prefill(inputs.images, prefix, inputs.length, slots=1)[0]
        for backend in ("splash", "xla")
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_splash_is_split_over_a_mesh(interpreted, groups):
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2))
    arrays, valid = draw(4, 20, 140, 4, groups, 8)
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
    arrays, valid = jax.device_put((arrays, valid), place)
    compare(arrays, valid, 120, wrap=functools.partial(mesh_lib.under, mesh))


@pytest.mark.parametrize(
    ("batch", "heads", "groups", "expected"),
    [
        (8, 8, 8, (("slice", "data", "fsdp"), "tensor", "tensor")),
        (8, 8, 1, (("slice", "data", "fsdp"), "tensor", None)),
        (8, 6, 2, (("slice", "data", "fsdp"), None, None)),
        (8, 8, 2, (("slice", "data", "fsdp"), None, None)),
        (3, 4, 4, (None, "tensor", "tensor")),
    ],
)
def test_only_what_divides_is_split(batch, heads, groups, expected):
    mesh = jax.sharding.AbstractMesh((1, 1, 2, 4), ("slice", "data", "fsdp", "tensor"))
    assert splash._places(mesh, batch, heads, groups) == expected


@pytest.mark.slow
@pytest.mark.tpu
@pytest.mark.parametrize(
    ("heads", "groups", "size", "queries", "keys", "saved"),
    [(8, 1, 256, 4160, 4160, 5), (16, 16, 72, 4096, 4096, 10), (8, 4, 256, 65, 4160, 0)],
)
def test_splash_compiles_for_a_tpu_and_saves_memory(
    no_cache, heads, groups, size, queries, keys, saved
):
    """PaliGemma and SigLIP at 896 pixels, and a last layer of the suffix; needs libtpu, no TPU.

    `saved` is how many times the memory XLA takes, at least.
    """
    pytest.importorskip("libtpu")
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=4), topology.devices)
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))

    def bytes_of(backend):
        def loss(query, key, value, valid):
            mask = attention.Mask(valid=valid, everyone=keys - 64)
            out = attention.attend(query, key, value, mask, backend=backend)
            return jnp.sum(out.astype(jnp.float32) ** 2)

        shapes = [(4, queries, heads, size), (4, keys, groups, size), (4, keys, groups, size)]
        inputs = [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=place) for s in shapes]
        inputs.append(jax.ShapeDtypeStruct((4, keys), jnp.bool_, sharding=place))
        step = jax.jit(jax.grad(mesh_lib.under(mesh, loss), (0, 1, 2)))
        return step.lower(*inputs).compile().memory_analysis().temp_size_in_bytes

    assert bytes_of("splash") * saved <= bytes_of("xla")
