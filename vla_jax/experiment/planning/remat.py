"""What the backward pass recomputes where the configuration leaves it open (`model.remat=auto`)."""

import dataclasses

import jax

from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.model import Model
from vla_jax.experiment.planning.estimate import estimate
from vla_jax.experiment.planning.shapes import Shapes
from vla_jax.models.layers import Remat
from vla_jax.runtime import chips, progress

REMATS: tuple[Remat, ...] = ("none", "dots", "full")  # from fast and large to slow and small
_SHARE = 0.9  # of a device's memory; the estimate may be wrong by some percent


def choose(config: RunConfig, vocabulary: int, mesh: jax.sharding.Mesh, memory: float) -> RunConfig:
    """Returns the run with the least rematerialisation that is estimated to fit.

    Args:
      config: the run; with anything but `auto` it is returned as it is.
      vocabulary: number of token ids.
      mesh: where it is to run, real or abstract.
      memory: bytes of each device.
    """
    if config.model.remat != "auto":
        return config
    shapes = Shapes(Model(config, vocabulary, mesh))
    for remat in REMATS:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, remat=remat))
        if estimate(config, shapes, vocabulary).total <= _SHARE * memory:
            break
    return config


def chosen_for(config: RunConfig, vocabulary: int, mesh: jax.sharding.Mesh) -> RunConfig:
    """Returns the run as `choose` for the devices of a mesh, and says so; `none` on unknown."""
    if config.model.remat != "auto":
        return config
    chip = chips.of(mesh.devices.flat[0])
    config = choose(config, vocabulary, mesh, float("inf") if chip is None else chip.memory)
    where = "unknown memory" if chip is None else f"{chip.memory / chips.GIB:.0f} GiB"
    progress.note(f"config.model.remat=auto: {config.model.remat}, for devices of {where}")
    return config
