import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vla_jax.core import trees
from vla_jax.data.augment import AugmentConfig
from vla_jax.data.collate import Collator
from vla_jax.experiment import sources
from vla_jax.experiment.model import Model
from vla_jax.experiment.planning.estimate import bytes_per_device, estimate
from vla_jax.experiment.planning.shapes import Shapes, abstract_batch
from vla_jax.models import variants
from vla_jax.runtime import mesh
from vla_jax.runtime.mesh import MeshConfig

VOCABULARY = 512


def on_one_device(config):
    one = mesh.abstract_mesh(MeshConfig(), 1)
    return Model(config, VOCABULARY, one)


def kept(config, model):
    """Returns the bytes that differentiation itself keeps of the stacks, beside the parameters."""
    state, batch = model.abstract_state(), abstract_batch(config, model.mesh)
    measure = model.measure(1)
    bare = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state.params, batch))
    pull = jax.eval_shape(
        lambda params, batch: jax.vjp(lambda p: measure(p, batch)[0], params)[1], *bare
    )
    params = {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state.params)}
    depths = {
        leaf.shape[0] for name, leaf in trees.named_leaves(state.params).items() if "blocks" in name
    }
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(pull)
        if (leaf.shape, leaf.dtype) not in params and leaf.shape and leaf.shape[0] in depths
    )


@pytest.mark.parametrize("remat", ["none", "dots", "narrow", "full"])
@pytest.mark.parametrize(
    "name", ["paligemma_3b_224", "openvla_7b", "rt2_palix_55b", "rt2_palme_12b"]
)
def test_activations_are_what_differentiation_keeps(config, name, remat):
    model = dataclasses.replace(variants.variants()[name], remat=remat, images="first", state=0)
    config = dataclasses.replace(config, model=model)
    built = on_one_device(config)
    found = estimate(config, Shapes(built), VOCABULARY).activations
    assert found == pytest.approx(kept(config, built), rel=0.005)


@pytest.mark.parametrize("sizes", [{}, {"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_state_and_batch_are_what_a_device_holds(config, sizes):
    mesh_config = MeshConfig(**sizes)
    config = dataclasses.replace(config, mesh=mesh_config)
    model = Model(config, VOCABULARY, mesh.make_mesh(mesh_config))
    arrays = jax.tree.map(
        lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding),
        (model.abstract_state(), abstract_batch(config, model.mesh)),
    )
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(arrays))
    abstract = Model(config, VOCABULARY, mesh.abstract_mesh(mesh_config, 8))
    found = estimate(config, Shapes(abstract), VOCABULARY)
    assert found.state + found.batch == held


def test_slicing_parameters_shares_their_state_and_gathers_them_for_use(config):
    whole, sliced = (
        estimate(config, Shapes(Model(config, VOCABULARY, mesh.abstract_mesh(m, 8))), VOCABULARY)
        for m in (MeshConfig(data=8), MeshConfig(fsdp=8))
    )
    assert sliced.state < whole.state / 6  # norms and biases are whole
    assert sliced.activations == whole.activations
    # A vocabulary that divides is not even put together for its use.
    odd = Shapes(Model(config, 509, mesh.abstract_mesh(MeshConfig(fsdp=8), 8)))
    assert sliced.working < whole.working < estimate(config, odd, 509).working


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"views": ("primary", "wrist"), "history": 2},
        {"continuous": True, "chunk": 2},
        {"augment": AugmentConfig(hue=0.1, on_device=True)},
        {"augment": AugmentConfig(on_device=True)},
    ],
)
@pytest.mark.parametrize("state", [0, 8])
def test_a_batch_has_the_shapes_that_the_loader_makes(config, change, state):
    config = dataclasses.replace(
        config,
        loader=dataclasses.replace(config.loader, **change),
        model=dataclasses.replace(config.model, state=state),
        sequence=dataclasses.replace(config.sequence, suffix=24),
    )
    robots = [
        types.SimpleNamespace(
            spec=robot.spec, state_size=0, statistics=lambda: None, state_statistics=lambda: None
        )
        for robot in sources.robots(config).values()
    ]
    layout = config.loader.layout(config.model.vision.image_size, state=state)
    collator = Collator([], types.SimpleNamespace(layout=config.sequence), layout)
    collator.sources, widest = robots, max(robot.spec.size for robot in robots)
    collator.actions = widest if config.loader.continuous else 0
    rows = config.loader.batch_size
    made = collator.start(np.zeros(rows, np.int64), np.zeros(rows, np.uint64)).finish()
    planned = abstract_batch(config, mesh.make_mesh(MeshConfig(fsdp=8)))
    assert jax.tree.map(lambda x: (x.shape, jnp.dtype(x.dtype)), planned) == jax.tree.map(
        lambda x: (x.shape, x.dtype), made
    )
    assert bytes_per_device(planned) == sum(x.nbytes for x in jax.tree.leaves(made)) / 8
