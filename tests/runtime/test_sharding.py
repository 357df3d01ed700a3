import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vla_jax.core import errors, trees
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.runtime import sharding

P = jax.sharding.PartitionSpec


@pytest.fixture(scope="module")
def mesh():
    return mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2))


PARAMS = {
    "embedding": jax.ShapeDtypeStruct((101, 8), jnp.float32),
    "layers": {
        "query": jax.ShapeDtypeStruct((3, 8, 4, 16), jnp.float32),
        "key": jax.ShapeDtypeStruct((3, 8, 1, 16), jnp.float32),
        "scale": jax.ShapeDtypeStruct((3, 8), jnp.float32),
    },
    "scale": jax.ShapeDtypeStruct((8,), jnp.float32),
}
AXES = {
    "embedding": ("vocab", "embed"),
    "layers": {
        "query": ("layers", "embed", "heads", "head_dim"),
        "key": ("layers", "embed", "kv", "head_dim"),
        "scale": ("layers", "norm"),
    },
    "scale": (None,),
}


def test_every_spec_has_one_entry_per_axis(mesh):
    placed = trees.named_leaves(sharding.shardings(PARAMS, AXES, mesh))
    assert {name: leaf.spec for name, leaf in placed.items()} == {
        "embedding": P(None, "fsdp"),  # 101 is odd.
        "layers/key": P(None, "fsdp", None, None),
        "layers/query": P(None, "fsdp", "tensor", None),
        "layers/scale": P(None, None),
        "scale": P(None),
    }
    for name, leaf in trees.named_leaves(PARAMS).items():
        assert len(placed[name].spec) == len(leaf.shape)


def test_a_mesh_axis_is_used_once(mesh):
    assert sharding.partition_spec((8, 8), ("embed", "embed"), mesh) == P("fsdp", None)
    assert sharding.partition_spec((8, 8), ("mlp", "heads"), mesh) == P("tensor", None)


def test_an_axis_whose_twin_falls_back_may_still_be_split(mesh):
    assert sharding.partition_spec((7, 8), ("mlp", "heads"), mesh) == P(None, "tensor")


def test_fallbacks_are_reported(mesh):
    lines = sharding.fallbacks({"a": PARAMS["embedding"]}, {"a": AXES["embedding"]}, mesh)
    assert lines == ["a: axis vocab of 101 replicated, tensor of 2 does not divide it"]
    (line,) = sharding.fallbacks({"a": PARAMS["scale"]}, {"a": ("embd",)}, mesh)
    assert line == "a: axis embd of 8 replicated, no rule names it"
    assert sharding.fallbacks({"a": PARAMS["scale"]}, {"a": ("norm",)}, mesh) == []


def test_axes_that_do_not_fit_the_shape_name_the_parameter(mesh):
    with pytest.raises(ValueError, match=r"layers/scale: .* has 2 axes"):
        sharding.shardings(PARAMS, AXES | {"layers": AXES["layers"] | {"scale": ("norm",)}}, mesh)


def test_other_rules(mesh):
    rules = {"embed": "tensor"}
    assert sharding.partition_spec((8, 8), ("embed", "mlp"), mesh, rules) == P("tensor", None)


def test_optimizer_moments_lie_like_their_parameters(mesh):
    placed = sharding.shardings(PARAMS, AXES, mesh)
    state = jax.eval_shape(optax.adamw(1e-3).init, PARAMS)
    out = sharding.like(state, PARAMS, placed)
    adam = out[0]
    assert adam.count.spec == P()
    assert adam.mu == placed
    assert adam.nu == placed


def test_like_takes_the_longest_name_and_the_shape(mesh):
    placed = sharding.shardings(PARAMS, AXES, mesh)
    tree = {
        "mu": {"layers": {"scale": PARAMS["layers"]["scale"], "query": PARAMS["scale"]}},
        "other": {"embedding": PARAMS["embedding"]},
    }
    out = sharding.like(tree, PARAMS, placed)
    assert out["mu"]["layers"]["scale"].spec == P(None, None)
    assert out["mu"]["layers"]["query"].spec == P()  # A factored moment: another shape.
    assert out["other"]["embedding"].spec == P(None, "fsdp")


def test_a_batch_is_split_along_its_leading_axis(mesh):
    batch = {"tokens": np.arange(24, dtype=np.int32).reshape(8, 3), "image": np.zeros((8, 2, 2, 3))}
    placed = sharding.place(batch, mesh)
    assert placed["tokens"].sharding == sharding.batch_sharding(mesh)
    assert {shard.data.shape for shard in placed["tokens"].addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(placed["tokens"], batch["tokens"])


def test_a_batch_that_does_not_divide_is_refused(mesh):
    with pytest.raises(errors.UserError, match=r"batch a/b: expected a multiple of 4 .* found 6"):
        sharding.place({"a": {"b": np.zeros((6, 2))}}, mesh)


class FakeMesh:
    """Devices of several processes, as far as `batch_part` looks at them."""

    def __init__(self, shape, processes):
        devices = [types.SimpleNamespace(process_index=process) for process in processes]
        shape = (1, *shape)  # one slice
        self.devices = np.array(devices, object).reshape(shape)
        self.shape = dict(zip(mesh_lib.AXES, shape, strict=True))


@pytest.mark.parametrize(
    ("shape", "processes", "parts"),
    [
        ((4, 1, 1), [0, 0, 1, 1], [(0, 2), (1, 2)]),
        ((2, 2, 1), [0, 1, 0, 1], [(0, 2), (1, 2)]),  # not next to each other
        ((1, 2, 2), [0, 0, 1, 1], [(0, 2), (1, 2)]),
        ((1, 1, 4), [0, 0, 1, 1], [(0, 1), (0, 1)]),  # the same examples for both
        ((2, 1, 2), [0, 1, 2, 3], [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ],
)
def test_each_process_provides_its_part_of_a_batch(monkeypatch, shape, processes, parts):
    mesh = FakeMesh(shape, processes)
    for process, part in enumerate(parts):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert sharding.batch_part(mesh) == part


def test_parts_of_a_batch_that_overlap_are_refused(monkeypatch):
    mesh = FakeMesh((3, 1, 2), [0, 0, 0, 1, 1, 1])
    with pytest.raises(errors.UserError, match="processes that hold equal parts of a batch"):
        sharding.batch_part(mesh)


def test_outside_of_a_mesh_nothing_is_placed():
    x = jnp.ones((8, 4, 16))
    assert sharding.keep_batch(x) is x


@pytest.mark.parametrize(
    "sizes", [{"data": 8}, {"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}]
)
@pytest.mark.parametrize("rows", [32, 33])  # 33 divide over nothing
def test_a_table_is_looked_up_and_multiplied_as_on_one_device(sizes, rows):
    made = mesh_lib.make_mesh(mesh_lib.MeshConfig(**sizes))
    random = np.random.default_rng(0)
    table = random.normal(size=(rows, 16)).astype(np.float32)
    tokens = random.integers(0, rows, (8, 5))

    def loss(table, tokens):
        found = sharding.lookup(table, tokens, jnp.dtype("float32"))
        x, table = sharding.by_rows(found, table)
        logits = jnp.einsum("bnd,vd->bnv", x, table)
        return jnp.sum(jax.nn.logsumexp(logits, axis=-1))

    spec = sharding.partition_spec(table.shape, ("vocab", "embed"), made)
    placed = (
        jax.device_put(table, jax.sharding.NamedSharding(made, spec)),
        jax.device_put(tokens, sharding.batch_sharding(made)),
    )
    found = jax.jit(jax.value_and_grad(mesh_lib.under(made, loss)))(*placed)
    expected = jax.value_and_grad(loss)(table, tokens)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
    )


def test_a_gradient_of_a_sliced_table_is_never_put_together():
    """Without the placement every device would hold the whole gradient."""
    made = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=1, fsdp=8))
    rows, width = 4096, 256
    spec = jax.sharding.NamedSharding(
        made, sharding.partition_spec((rows, width), ("vocab", "embed"), made)
    )
    arguments = (
        jax.ShapeDtypeStruct((rows, width), jnp.float32, sharding=spec),
        jax.ShapeDtypeStruct((8, 4), jnp.int32, sharding=sharding.batch_sharding(made)),
    )

    def loss(table, tokens, placed):
        if placed:
            x, table = sharding.by_rows(sharding.lookup(table, tokens, table.dtype), table)
        else:
            x = sharding.keep_batch(table[tokens])
        return jnp.sum(jax.nn.logsumexp(jnp.einsum("bnd,vd->bnv", x, table), axis=-1))

    def memory(placed):
        step = jax.grad(mesh_lib.under(made, lambda *a: loss(*a, placed)))
        compiled = jax.jit(step, out_shardings=spec).lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole = rows * width * 4
    assert memory(placed=False) > whole
    assert memory(placed=True) < 0.75 * whole
