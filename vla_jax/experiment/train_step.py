"""The train step as it is jitted: training runs it here, the planner compiles it for elsewhere."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vla_jax.core.batch import Batch
from vla_jax.experiment import sources
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.parts import Model
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.runtime import sharding
from vla_jax.train import step


def make_loss(config: RunConfig, model: Model, sources: int) -> Callable[..., Any]:
    """Returns (params, batch) -> (loss, sums per source), to be jitted on the model's mesh."""
    loss = step.make_loss(
        model.graph, prefix=config.sequence.prefix, sources=sources, config=config.loss
    )
    return mesh_lib.under(model.mesh, loss)


def make(config: RunConfig, model: Model, sources: int) -> Any:
    """Returns the jitted (state, batch) -> (next state, metrics), which eats the state.

    Args:
      config: the run.
      model: its model, on the mesh where it is to run.
      sources: number of mixture sources.
    """
    loss = make_loss(config, model, sources)
    return jax.jit(step.make_train_step(loss, model.optimizer), donate_argnums=0)


def abstract_batch(config: RunConfig, mesh: jax.sharding.Mesh) -> Batch:
    """Returns shapes, dtypes and shardings of a global batch; opens no dataset."""
    loader, rows = config.loader, config.loader.batch_size
    place = sharding.batch_sharding(mesh)

    def array(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=place)

    images, side = len(loader.views) * loader.history, config.model.vision.image_size
    slots = config.sequence.prefix + config.sequence.suffix
    robots = [robot.spec.size for robot in sources.robots(config).values()]
    actions = (loader.chunk, max(robots, default=0))
    state = config.model.state
    on_device = loader.augment.on_device and loader.augment.has_colour
    return Batch(
        images=array(jnp.uint8, images, side, side, 3),
        image_mask=array(jnp.bool_, images),
        tokens=array(jnp.int32, slots),
        prefix_length=array(jnp.int32),
        loss_mask=array(jnp.bool_, slots),
        source=array(jnp.int32),
        actions=array(jnp.float32, *actions) if loader.continuous else None,
        action_mask=array(jnp.bool_, *actions) if loader.continuous else None,
        state=array(jnp.float32, state) if state else None,
        state_mask=array(jnp.bool_, state) if state else None,
        colour=array(jnp.float32, 3, 4) if on_device else None,
    )
