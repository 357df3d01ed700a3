import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.core import trees
from vla_jax.core.errors import UserError
from vla_jax.models import lora, variants, vlm
from vla_jax.models.lora import Lora, LoraConfig
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.runtime import sharding


def take_apart(model):
    graph, state = nnx.split(model)
    return graph, nnx.to_pure_dict(state), vlm.logical_axes(model)


@pytest.fixture(scope="module")
def parts(build_model):
    return take_apart(build_model(key_heads=2))


def randomly(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), tree)


def test_all_linear_is_every_matrix_but_embeddings_patches_and_head(parts):
    _, params, axes = parts
    found = Lora(params, axes, LoraConfig(rank=2)).targets
    block = ("query", "key", "value", "out", "up", "down")
    expected = {f"vision/blocks/{name}" for name in block}
    expected |= {f"decoder/blocks/{name}" for name in (*block, "gate")}
    assert set(found) == expected | {"projector/kernel0"}


def test_new_adapters_change_nothing_and_lie_on_the_mesh_like_their_parameters(parts):
    _, params, axes = parts
    adapters = Lora(params, axes, LoraConfig(rank=2))
    new = adapters.init(jax.random.key(0))
    merged = adapters.merge(params, new)
    jax.tree.map(np.testing.assert_array_equal, merged, params)
    query = new["decoder"]["blocks"]["query"]
    assert (query["a"].shape, query["b"].shape) == ((2, 16, 2), (2, 2, 4, 8))
    assert 0.2 < np.abs(query["a"]).max() <= 16**-0.5
    assert not np.array_equal(query["a"], new["decoder"]["blocks"]["key"]["a"])
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=4, tensor=2))
    places = sharding.shardings(adapters.abstract(), adapters.logical_axes(), mesh)
    spec = jax.sharding.PartitionSpec
    assert places["decoder"]["blocks"]["query"]["a"].spec == spec(None, "fsdp", None)
    assert places["decoder"]["blocks"]["query"]["b"].spec == spec(None, None, "tensor", None)
    assert places["decoder"]["blocks"]["out"]["a"].spec == spec(None, "tensor", None, None)
    assert not sharding.fallbacks(adapters.abstract(), adapters.logical_axes(), mesh)
    # Made and merged on the mesh they are what they are on one device.
    values = randomly(adapters.abstract())
    expected = adapters.merge(params, values)
    base = jax.device_put(params, sharding.shardings(params, axes, mesh))
    values = jax.device_put(values, places)
    merged = jax.jit(adapters.merge, out_shardings=sharding.shardings(params, axes, mesh))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merged(base, values), expected
    )


def test_merging_adds_the_scaled_product_to_every_kind_of_matrix(build_model):
    model = build_model(key_heads=2)
    _, params, axes = take_apart(model)
    pattern = f"{lora.ALL_LINEAR}|vision/stem0"
    adapters = Lora(params, axes, LoraConfig(rank=2, alpha=3, targets=pattern))
    values = randomly(adapters.abstract())
    merged = trees.named_leaves(adapters.merge(params, values))
    named = trees.named_leaves(values)
    for name, leaf in trees.named_leaves(params).items():
        if name not in adapters.targets:
            assert merged[name] is leaf
            continue
        a, b = (np.asarray(named[f"{name}/{part}"]) for part in "ab")
        stacked = "blocks" in name
        for layer in range(2 if stacked else 1):
            one_a, one_b = (x[layer] if stacked else x for x in (a, b))
            delta = 1.5 * one_a.reshape(-1, 2) @ one_b.reshape(2, -1)
            base, found = (np.asarray(x[layer] if stacked else x) for x in (leaf, merged[name]))
            np.testing.assert_allclose(found, base + delta.reshape(base.shape), atol=1e-6)


def test_a_head_takes_its_input_from_the_last_axis():
    params = {"head": jnp.zeros((5, 3))}
    adapters = Lora(params, {"head": ("vocab", "embed")}, LoraConfig(rank=2, targets="head"))
    values = randomly(adapters.abstract())
    assert values["head"]["a"].shape == (3, 2)
    expected = 8 * values["head"]["b"].T @ values["head"]["a"].T
    np.testing.assert_allclose(adapters.merge(params, values)["head"], expected, rtol=1e-5)


def test_a_loss_over_merged_weights_trains_the_adapters(parts, inputs):
    graph, params, axes = parts
    adapters = Lora(params, axes, LoraConfig(rank=2))

    def loss(values):
        model = nnx.merge(graph, adapters.merge(params, values))
        logits = model.logits(inputs.images, inputs.tokens, inputs.length, inputs.prefix)
        return jnp.mean(jax.nn.logsumexp(logits, -1) ** 2)

    step = jax.jit(jax.value_and_grad(loss))
    values = adapters.init(jax.random.key(0))
    before, gradient = step(values)
    assert jax.tree.structure(gradient) == jax.tree.structure(values)
    for name, leaf in trees.named_leaves(gradient).items():
        # B is zero, so A has no gradient yet.
        assert (np.abs(leaf).max() > 1e-6) == name.endswith("/b"), name
    values = jax.tree.map(lambda v, g: v - 0.01 * g, values, gradient)
    after, gradient = step(values)
    assert after < before
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_half_precision_weights_stay_so():
    params = {"kernel0": jnp.ones((4, 4), jnp.bfloat16)}
    adapters = Lora(params, {"kernel0": ("patch", "embed")}, LoraConfig(rank=2))
    values = adapters.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(values)} == {jnp.dtype("float32")}
    assert adapters.merge(params, values)["kernel0"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("decoder/embedding", "matrices that features are multiplied by"),
        ("decoder/norm", "an array with axes norm"),
        ("vision/blocks/query_bias", "an array with axes layers, heads, head_dim"),
        ("decoder/qery", "a match with some whole leaf name"),
    ],
)
def test_targets_that_are_no_matrices_are_refused(parts, targets, message):
    _, params, axes = parts
    with pytest.raises(UserError, match=message):
        Lora(params, axes, LoraConfig(targets=targets))


def test_a_rank_is_positive():
    with pytest.raises(UserError, match=r"LoraConfig\.rank: expected 1\.\."):
        LoraConfig(rank=0)


# OpenVLA's table 1, in millions. Its `all-linear` is PEFT's over timm's and Llama's modules. What
# gives the published numbers exactly: the name `proj` takes the projection of patches along (a
# convolution: 588 + 1152 rows), and the head (32064 + 4096) is not left out, as PEFT of that time
# looked for its whole name among last names. One adapter spans timm's packed query, key and value,
# where ours are one each: (2 x 1152) more per layer, 1152 in the pooling head.
#
#           published    ours, same modules    ours, all-linear
#   r = 32       97.6                  99.6                98.4
#   r = 64      195.2                 199.3               196.8
@pytest.mark.parametrize(
    ("rank", "published", "same", "all_linear"), [(32, 97.6, 99.6, 98.4), (64, 195.2, 199.3, 196.8)]
)
def test_as_many_trainable_parameters_as_openvla(rank, published, same, all_linear):
    config = variants.variants()["openvla_siglip_7b"]
    model = nnx.eval_shape(lambda: vlm.VLM(config, 32_064, nnx.Rngs(0)))
    params, axes = nnx.to_pure_dict(nnx.state(model)), vlm.logical_axes(model)

    def millions(targets):
        adapters = Lora(params, axes, LoraConfig(rank=rank, targets=targets))
        return trees.size(adapters.abstract()) / 1e6

    found = millions(f"{lora.ALL_LINEAR}|vision/stem0|decoder/head")
    assert found == pytest.approx(same, abs=0.05)
    packed = (27 * 2 + 1) * 1152 * rank / 1e6
    assert found - packed == pytest.approx(published, abs=0.05)
    assert millions("all-linear") == pytest.approx(all_linear, abs=0.05)
