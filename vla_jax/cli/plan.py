"""`vla-jax plan CONFIG --topology=v5p:8x8x8`: memory, time and money before anything is rented."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence

from absl import flags as absl_flags

from vla_jax.cli import flags
from vla_jax.core.errors import UserError, nearest
from vla_jax.experiment.config import RunConfig
from vla_jax.runtime import progress
from vla_jax.runtime.mesh import AXES, MeshConfig
from vla_jax.runtime.topology import Topology

_DOES_NOT_FIT = 1


def main(arguments: Sequence[str]) -> None:
    """Prints the plan; exits with 1 if it does not fit, naming the nearest change that does."""
    required = ("config", "topology")
    given, values = flags.parse_run("plan", flags.with_config(arguments), _define, required)
    config, topology = _changed(given, values), Topology.parse(values.topology)
    # Imported late, so that a typing error in a flag is told at once.
    import jax

    from vla_jax.experiment.planning import fit, report, search, vocabulary
    from vla_jax.experiment.planning import plan as plans
    from vla_jax.runtime import gpu_compiler
    from vla_jax.runtime import mesh as mesh_lib

    jax.config.update("jax_platforms", "cpu")  # what is here is not what is planned for
    tokens, source = values.vocabulary, "--vocabulary"
    if tokens is None:
        tokens, source = vocabulary.find(config)
    progress.note(f"vocabulary: {tokens} tokens ({source})")
    mesh = mesh_lib.abstract_mesh(config.mesh, topology.devices)
    chosen = fit.choose_remat(config, tokens, mesh, topology.chip.memory)
    if chosen is not config:
        progress.note(f"config.model.remat=auto: {chosen.model.remat}, the least that should fit")
    config = chosen
    plan = first = plans.on_paper(config, tokens, topology)
    exact = not values.estimate
    if exact and topology.chip.platform == "gpu" and gpu_compiler.version() is None:
        exact = False
        progress.note(f"an estimate: the GPUs' compiler is not here ({gpu_compiler.INSTALL})")
    if values.search:
        plan = report.follow(search.search(plan, config, report.waiting, exact=exact), plan)
    elif exact and plan.estimate.state <= topology.chip.memory:
        plan = first = plans.compiled(config, plan, report.waiting)
    report.show(plan, examples=values.examples, mfu=values.mfu, price=values.price)
    if values.json is not None:
        path = pathlib.Path(values.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(plan.to_json(), indent=1) + "\n", encoding="utf-8")
    if not plan.fits:
        progress.note(report.advice(first, search.nearest_that_fits(first, config)))
        sys.exit(_DOES_NOT_FIT)


def _changed(config: RunConfig, values: absl_flags.FlagValues) -> RunConfig:
    """Returns the run with --mesh and --batch."""
    if values.batch is not None:
        loader = dataclasses.replace(config.loader, batch_size=values.batch)
        config = dataclasses.replace(config, loader=loader)
    if values.mesh is None:
        return config
    sizes: dict[str, int] = {}
    for item in values.mesh.split(","):
        axis, _, size = item.partition("=")
        if axis not in AXES or not size.removeprefix("-").isdigit():
            raise UserError(
                f"--mesh {values.mesh}",
                expected=f"AXIS=SIZE of {', '.join(AXES)}, such as fsdp=-1,tensor=4",
                found=item,
                fix=nearest(axis, AXES),
            )
        sizes[axis] = int(size)
    whole = {"data": 1, "fsdp": 1, "tensor": 1} | sizes
    mesh = MeshConfig(**whole, cpu_devices=config.mesh.cpu_devices)
    return dataclasses.replace(config, mesh=mesh)


def _define(values: absl_flags.FlagValues) -> None:
    text, number = absl_flags.DEFINE_string, absl_flags.DEFINE_float
    for name, meaning in (
        ("topology", "CHIP:SHAPE, such as v5e:4x4, v5p:8x8x8, h200:8, h100:8x4."),
        ("mesh", "AXIS=SIZE,... in place of config.mesh; axes not named are 1."),
    ):
        text(name, None, meaning, flag_values=values)
    flags.define_path("json", "File to write the plan to.", values)
    for name, meaning in (
        ("batch", "Examples per step, in place of config.loader.batch_size."),
        ("vocabulary", "Token ids; found from the config by default."),
    ):
        absl_flags.DEFINE_integer(name, None, meaning, 1, 2**20, flag_values=values)
    for name, meaning in (
        ("search", "Try other remat, mesh and batch."),
        ("estimate", "On paper, without the compiler."),
    ):
        absl_flags.DEFINE_boolean(name, False, meaning, flag_values=values)
    number("examples", None, "How many examples to tell time and cost of.", 1, flag_values=values)
    number("mfu", None, "Tell them at this utilisation too, 0..1.", 0.01, 1, flag_values=values)
    number("price", None, "Of one chip for one hour.", 0, flag_values=values)
