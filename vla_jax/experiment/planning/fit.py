"""A run and the memory of the devices that it is to run on: what to recompute, what cannot be."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax

from vla_jax.core.errors import UserError
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.model import Model
from vla_jax.experiment.planning.cost import forward_flops
from vla_jax.experiment.planning.estimate import bytes_per_device, estimate
from vla_jax.experiment.planning.shapes import Shapes
from vla_jax.models import flops
from vla_jax.models.layers import Remat
from vla_jax.runtime import chips, progress

# From fast and large to slow and small.
REMATS: tuple[Remat, ...] = ("none", "dots", "narrow", "full")
_GAIN = 0.01  # of a step's arithmetic; what saves less is not worth two or three times the memory
_SHARE = 0.9  # of a device's memory; the estimate may be wrong by some percent


def choose_remat(
    config: RunConfig, vocabulary: int, mesh: jax.sharding.Mesh, memory: float
) -> RunConfig:
    """Returns the run with the least rematerialisation of `remats` that is estimated to fit.

    Args:
      config: the run; with anything but `model.remat=auto` it is returned as it is.
      vocabulary: number of token ids.
      mesh: where it is to run, real or abstract.
      memory: bytes of each device.
    """
    if config.model.remat != "auto":
        return config
    shapes = Shapes(Model(config, vocabulary, mesh))
    for remat in remats(config, vocabulary):
        config = with_remat(config, remat)
        if estimate(config, shapes, vocabulary).total <= _SHARE * memory:
            break
    return config


def with_remat(config: RunConfig, remat: Remat) -> RunConfig:
    """Returns the run with another `model.remat`."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, remat=remat))


def remats(config: RunConfig, vocabulary: int) -> list[Remat]:
    """Returns what a run may recompute, from fast and large to slow and small.

    Without those that save next to no arithmetic over the next: mostly `none`, where attention is
    short.
    """
    forward = forward_flops(config, vocabulary)
    step = sum(flops.training(forward).values())
    work = {
        remat: step + flops.recomputed(with_remat(config, remat).model, forward) for remat in REMATS
    }
    large, small = REMATS[:-1], REMATS[1:]
    pairs = zip(large, small, strict=True)
    worth: list[Remat] = [a for a, b in pairs if work[b] > (1 + _GAIN) * work[a]]
    return [*worth, REMATS[-1]]


def fit(config: RunConfig, vocabulary: int, mesh: jax.sharding.Mesh) -> RunConfig:
    """Chooses what a run leaves open about memory, for the devices of a real mesh.

    On devices whose memory is not known `model.remat=auto` recomputes nothing.

    Raises:
      UserError: not even what is carried from step to step has room.
    """
    chip = chips.of(mesh.devices.flat[0])
    memory = float("inf") if chip is None else chip.memory
    if chip is None and config.model.remat == "auto":
        chosen = with_remat(config, "none")
    else:
        chosen = choose_remat(config, vocabulary, mesh, memory)
    if chosen is not config:
        where = "unknown memory" if chip is None else f"{memory / chips.GIB:.0f} GiB"
        progress.note(f"config.model.remat=auto: {chosen.model.remat}, for devices of {where}")
    state = bytes_per_device(Shapes(Model(chosen, vocabulary, mesh)).state)
    if state > memory:
        raise UserError(
            "config.mesh: parameters and optimizer do not fit",
            expected=f"at most {memory / chips.GIB:.1f} GiB per device",
            found=f"{state / chips.GIB:.1f} GiB",
            fix="Raise config.mesh.fsdp, take a smaller config.strategy, or ask vla-jax plan",
        )
    return chosen


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turns a device's "out of memory" into a UserError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        raise UserError(
            "device memory is full",
            found=str(error).splitlines()[0].rstrip("."),
            fix="Take config.model.remat=full, a smaller batch, more optimizer.accumulate or "
            "mesh.fsdp; vla-jax plan tells what fits. Nothing saved is lost",
        ) from error
