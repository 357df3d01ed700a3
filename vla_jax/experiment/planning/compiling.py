"""The real train step, as the real compiler plans it: its memory, and what it runs; remembered."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

from vla_jax.core import files, json_file
from vla_jax.core.errors import UserError
from vla_jax.experiment import sources
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.model import Model
from vla_jax.experiment.planning.estimate import bytes_per_device
from vla_jax.experiment.planning.shapes import abstract_batch
from vla_jax.runtime import compilation, gpu_compiler, gpu_program, progress, topology
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.runtime.gpu_program import Program
from vla_jax.runtime.topology import Memory, NoRoomError, Topology

__all__ = ["Compiled", "NoRoomError", "train_step"]

# Where cuDNN's rule of partitioning lies in this process, in the program's text.
_ADDRESS = re.compile(r'(@CustomSPMDPartitioning\(.*?backend_config = )"\d+"')

Tick = Callable[[float], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the compiler says of a train step.

    Attributes:
      memory: of each device; None where there was no room.
      program: what it runs, of GPUs alone: in a TPU's program collectives hide in fusions.
      needed: bytes that it would have taken, about, where there was no room and the compiler said.
    """

    memory: Memory | None = None
    program: Program | None = None
    needed: float | None = None


def train_step(config: RunConfig, vocabulary: int, machines: Topology, tick: Tick) -> Compiled:
    """Compiles the train step of a run for a topology, unless that was done before.

    Args:
      config: the run.
      vocabulary: number of token ids.
      machines: what it is to run on.
      tick: told the seconds every second.

    Raises:
      UserError: the compiler is not installed, or not all of it.
      NoRoomError: the step takes more memory than there is.
    """
    is_gpu = machines.chip.platform == "gpu"
    mesh = mesh_lib.make_mesh(config.mesh, machines.compiler_devices())
    model = Model(config, vocabulary, mesh)
    names = [*sources.robots(config), *config.mixture.web]
    step: Any = model.train_step(model.measure(len(names)))
    arguments = model.abstract_state(), abstract_batch(config, mesh)
    with gpu_compiler.cudnn_as_if_here() if is_gpu else contextlib.nullcontext():
        lowered = step.lower(*arguments)
    path = compilation.directory() / "train_steps" / f"{_key(lowered.as_text(), machines)}.json"
    found = _remembered(path)
    if found is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        compiler = _for_gpus(path.parent / "compiler.log") if is_gpu else topology.compile_lowered
        try:
            result = compiler(lowered, bytes_per_device(arguments), tick)
        except NoRoomError as error:
            found = Compiled(needed=error.needed)
        else:
            program = gpu_program.read(result.as_text()) if is_gpu else None
            found = Compiled(memory=topology.memory_of(result), program=program)
        files.write_whole(path, json.dumps(dataclasses.asdict(found)).encode())
    if found.memory is None:
        raise NoRoomError(found.needed)
    return found


def _for_gpus(log: pathlib.Path) -> Callable[[Any, float, Tick], Any]:
    """Returns `topology.compile_lowered` as GPUs need it; the compiler's own words go to `log`."""

    def compile_lowered(lowered: Any, arguments: float, tick: Tick) -> Any:
        with gpu_compiler.tool_errors(), gpu_compiler.quiet(log):
            return topology.compile_lowered(lowered, arguments, tick, gpu_compiler.OPTIONS)

    return compile_lowered


def _remembered(path: pathlib.Path) -> Compiled | None:
    """Returns what was found out before, None where nothing was or its file is damaged."""
    if not path.is_file():
        return None
    try:
        return json_file.read(path, Compiled)
    except UserError as error:
        progress.note(f"compiled again: {error}")
        return None


def _key(program: str, machines: Topology) -> str:
    """Names a compilation by all it depends on."""
    program = _ADDRESS.sub(r"\1", program)
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib")]
    if machines.chip.platform == "gpu":
        versions += [str(gpu_compiler.version()), str(sorted(gpu_compiler.OPTIONS.items()))]
        versions.append(gpu_compiler.target(machines.chip))
    else:
        versions.append(importlib.metadata.version("libtpu"))
    return hashlib.sha256("\n".join([str(machines), *versions, program]).encode()).hexdigest()
