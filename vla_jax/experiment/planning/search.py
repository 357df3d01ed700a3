"""Other settings under which a run fits, or is faster: remat, mesh and batch."""

import dataclasses
from collections.abc import Iterator

from vla_jax.core.errors import UserError
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.model import Model
from vla_jax.experiment.planning import fit
from vla_jax.experiment.planning import plan as plans
from vla_jax.experiment.planning.compiling import Tick
from vla_jax.experiment.planning.plan import Plan
from vla_jax.experiment.planning.shapes import Shapes
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.runtime.mesh import MeshConfig

_TENSOR = (1, 2, 4, 8)  # more than a node, or a row of a torus, has never paid
_DATA = (1, 4)  # or all: copies of the parameters
_SMALLER = (1, 2, 4, 8, 16, 32, 64)
_COMPILATIONS = 8  # of minutes each
_HOPE = 1.25  # an estimate so far above the capacity is not worth compiling


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """Settings and what they are planned to take."""

    config: RunConfig
    plan: Plan

    def flags(self, given: Plan) -> str:
        """Returns the flags that turn what was planned before into these settings."""
        out, plan = [], self.plan
        if plan.mesh != given.mesh:
            axes = [f"{k}={v}" for k, v in plan.mesh.items() if v > 1] or ["data=1"]
            out.append(f"--mesh={','.join(axes)}")
        if plan.remat != given.remat:
            out.append(f"--config.model.remat={plan.remat}")
        if plan.batch != given.batch:
            out.append(f"--batch={plan.batch}")
        return " ".join(out) or "as it is"


def candidates(given: Plan, config: RunConfig) -> list[Candidate]:
    """Returns all settings of a topology on paper, the largest batch first and then the fastest.

    Args:
      given: the plan of `config`.
      config: the run.
    """
    found: list[Candidate] = []
    for mesh in _meshes(config.mesh, given.topology.devices):
        on_mesh = dataclasses.replace(config, mesh=mesh)
        # Its state depends on neither remat nor batch.
        laid_out = mesh_lib.abstract_mesh(mesh, given.topology.devices)
        shapes = Shapes(Model(on_mesh, given.vocabulary, laid_out))
        for changed in _changed(on_mesh, given.vocabulary):
            try:
                plan = plans.on_paper(changed, given.vocabulary, given.topology, shapes)
            except UserError:  # the batch does not divide
                continue
            found.append(Candidate(config=changed, plan=plan))
    return sorted(found, key=_order)


def _order(candidate: Candidate) -> tuple[float, ...]:
    """Sorts by batch, then speed; of equals, what is sure of it because it sends less."""
    plan = candidate.plan
    return -plan.batch, plan.seconds_per_example, plan.cost.seconds["interconnect"]


def nearest_that_fits(given: Plan, config: RunConfig) -> Candidate | None:
    """Returns the smallest change of a plan with which it should fit; None if there is none.

    Estimates are corrected by what the compiler says of `given`. A larger batch part in work is
    kept as long as possible; then as little of the mesh is changed as possible.
    """
    correction = given.taken / given.estimate.total
    room = [
        c
        for c in candidates(given, config)
        if c.plan.estimate.total * correction <= given.topology.chip.memory
    ]

    def changes(c: Candidate) -> tuple[int, bool, bool, float]:
        other_mesh, other_remat = c.plan.mesh != given.mesh, c.plan.remat != given.remat
        return (-c.plan.batch, other_mesh and other_remat, other_mesh, c.plan.seconds_per_example)

    return min(room, key=changes, default=None)


def search(given: Plan, config: RunConfig, tick: Tick, *, exact: bool) -> Iterator[Candidate]:
    """Yields candidates in the order of `candidates`, up to the first that fits.

    Args:
      given: the plan of `config`, on paper.
      config: the run.
      tick: told the seconds of a compilation.
      exact: whether they are compiled; so many at most, the others are passed over.
    """
    capacity, correction, tries = given.topology.chip.memory, 1.0, 0
    for candidate in candidates(given, config):
        plan = candidate.plan
        if plan.estimate.total * correction > _HOPE * capacity or tries == _COMPILATIONS:
            continue
        if exact:
            plan, tries = plans.compiled(candidate.config, plan, tick), tries + 1
            correction = max(correction, plan.taken / plan.estimate.total / _HOPE)
        yield dataclasses.replace(candidate, plan=plan)
        if plan.fits:
            return


def _changed(config: RunConfig, vocabulary: int) -> Iterator[RunConfig]:
    remats = fit.remats(config, vocabulary)
    batch = config.loader.batch_size
    for part in _SMALLER:
        for remat in remats:
            if batch % part == 0:
                loader = dataclasses.replace(config.loader, batch_size=batch // part)
                yield dataclasses.replace(fit.with_remat(config, remat), loader=loader)


def _meshes(config: MeshConfig, devices: int) -> list[MeshConfig]:
    shapes = {
        (data, devices // tensor // data, tensor)
        for tensor in _TENSOR
        for data in (*_DATA, devices // tensor)
        if data and devices % (tensor * data) == 0
    }
    return [
        dataclasses.replace(config, slice=1, data=data, fsdp=fsdp, tensor=tensor)
        for data, fsdp, tensor in sorted(shapes)
    ]
