"""Shapes, dtypes and places of all that a run holds, without its data and its devices."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from vla_jax.core.batch import Batch
from vla_jax.experiment import sources
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.model import Model
from vla_jax.runtime import sharding
from vla_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Shapes:
    """A model laid out on a mesh, abstract or real; what it takes time to find is found once."""

    model: Model

    @property
    def mesh(self) -> Any:
        """The mesh."""
        return self.model.mesh

    @functools.cached_property
    def params(self) -> Any:
        """All parameters, in the dtype of the masters."""
        return self.model.abstract_params()

    @functools.cached_property
    def state(self) -> TrainState:
        """What training carries from step to step."""
        return self.model.abstract_state()


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
