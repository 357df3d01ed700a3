"""What a run needs on machines that are not here: memory, time, money; and whether it fits."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from vla_jax.core.errors import UserError
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.model import Model
from vla_jax.experiment.planning import compiling
from vla_jax.experiment.planning.cost import Cost, cost
from vla_jax.experiment.planning.estimate import Estimate, estimate
from vla_jax.experiment.planning.shapes import Shapes
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.runtime import sharding
from vla_jax.runtime.gpu_program import Program
from vla_jax.runtime.topology import Memory, Topology


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One configuration on one topology.

    Attributes:
      topology: the machines.
      mesh: devices along each mesh axis.
      batch: examples per step.
      remat: what the backward pass recomputes.
      vocabulary: number of token ids.
      parameters: of the model.
      trained: parameters that are trained.
      cost: of one step.
      estimate: device memory on paper.
      memory: device memory as the compiler plans it; None where it was not asked.
      program: what the compiled step runs on each device; None where it was not asked, and on TPUs.
      needed: bytes that the compiler would have needed; None where it found room, or was not asked.
    """

    topology: Topology
    mesh: Mapping[str, int]
    batch: int
    remat: str
    vocabulary: int
    parameters: int
    trained: int
    cost: Cost
    estimate: Estimate
    memory: Memory | None = None
    program: Program | None = None
    needed: float | None = None

    @property
    def taken(self) -> float:
        """Bytes of each device: what the compiler says, or else the estimate."""
        if self.needed is not None:
            return self.needed
        return self.estimate.total if self.memory is None else self.memory.total

    @property
    def fits(self) -> bool:
        """Whether a device has as much."""
        return self.needed is None and self.taken <= self.topology.chip.memory

    @property
    def seconds_per_example(self) -> float:
        """At best."""
        return self.cost.step_seconds / self.batch

    def hours(self, examples: float, mfu: float | None = None) -> float:
        """Returns hours to see so many examples, at best or at a given utilisation."""
        step = self.cost.step_seconds
        if mfu is not None:
            step = sum(self.cost.flops.values()) / mfu / self.cost.peak_flops
        return examples / self.batch * step / 3600

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, bytes and seconds."""
        return {
            "topology": str(self.topology),
            "devices": self.topology.devices,
            "mesh": dict(self.mesh),
            "batch": self.batch,
            "remat": self.remat,
            "vocabulary": self.vocabulary,
            "parameters": self.parameters,
            "trained_parameters": self.trained,
            "flops_per_step": dict(self.cost.flops),
            "recomputed_flops_per_step": self.cost.recomputed,
            "collective_bytes_per_device": dict(self.cost.collectives),
            "seconds": {**self.cost.seconds, "step": self.cost.step_seconds},
            "mfu_at_best": self.cost.mfu,
            "capacity_bytes": self.topology.chip.memory,
            "estimate_bytes": dataclasses.asdict(self.estimate) | {"total": self.estimate.total},
            "compiled_bytes": None
            if self.memory is None
            else dataclasses.asdict(self.memory) | {"total": self.memory.total},
            "compiled_program": None if self.program is None else dataclasses.asdict(self.program),
            "needed_bytes": self.needed,
            "fits": self.fits,
        }


def on_paper(
    config: RunConfig, vocabulary: int, topology: Topology, shapes: Shapes | None = None
) -> Plan:
    """Plans without a compiler: a second for the largest model.

    Args:
      config: the run.
      vocabulary: number of token ids.
      topology: where it is to run.
      shapes: those of a run that differs in batch and remat alone, if there is one.

    Raises:
      UserError: mesh or batch do not go with the topology.
    """
    mesh = mesh_lib.abstract_mesh(config.mesh, topology.devices)
    parts = config.optimizer.accumulate
    slices = parts * math.prod(mesh.shape[axis] for axis in sharding.BATCH_AXES)
    if config.loader.batch_size % slices:
        near = max(round(config.loader.batch_size / slices), 1) * slices
        raise UserError(
            f"config.loader.batch_size on {topology}",
            expected=f"a multiple of {slices} ("
            + " x ".join(sharding.BATCH_AXES)
            + " of the mesh"
            + (f" x accumulate {parts})" if parts > 1 else ")"),
            found=config.loader.batch_size,
            fix=f"Take --batch={near}, or another --mesh",
        )
    shapes = shapes or Shapes(Model(config, vocabulary, mesh))
    return Plan(
        topology=topology,
        mesh=dict(mesh.shape),
        batch=config.loader.batch_size,
        remat=config.model.remat,
        vocabulary=vocabulary,
        parameters=shapes.model.size,
        trained=shapes.model.trained_size,
        cost=cost(config, shapes, vocabulary, topology),
        estimate=estimate(config, shapes, vocabulary),
    )


def compiled(config: RunConfig, plan: Plan, tick: compiling.Tick) -> Plan:
    """Returns the plan with what the compiler says of the real train step.

    Args:
      config: the run that was planned on paper.
      plan: that plan.
      tick: told the seconds every second.

    Raises:
      UserError: the compiler is not installed.
    """
    try:
        found = compiling.train_step(config, plan.vocabulary, plan.topology, tick)
    except compiling.NoRoomError as error:
        return dataclasses.replace(plan, needed=error.needed or plan.estimate.total)
    return dataclasses.replace(plan, memory=found.memory, program=found.program)
