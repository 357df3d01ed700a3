"""The memory of the real train step, as the real compiler plans it; remembered on disk."""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from typing import Any

from vla_jax.experiment import sources
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.model import Model
from vla_jax.experiment.planning.estimate import bytes_per_device
from vla_jax.experiment.planning.shapes import abstract_batch
from vla_jax.runtime import compilation
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.runtime.topology import Memory, NoRoomError, Topology, compile_for_memory

__all__ = ["NoRoomError", "memory"]

Tick = Callable[[float], None]


def memory(config: RunConfig, vocabulary: int, topology: Topology, tick: Tick) -> Memory:
    """Compiles the train step of a run for a topology, unless that was done before.

    Args:
      config: the run.
      vocabulary: number of token ids.
      topology: TPUs.
      tick: told the seconds every second.

    Raises:
      UserError: libtpu is not installed.
      NoRoomError: the step takes more memory than there is.
    """
    mesh = mesh_lib.make_mesh(config.mesh, topology.compiler_devices())
    model = Model(config, vocabulary, mesh)
    names = [*sources.robots(config), *config.mixture.web]
    step: Any = model.train_step(model.measure(len(names)))
    arguments = model.abstract_state(), abstract_batch(config, mesh)
    lowered = step.lower(*arguments)
    path = compilation.directory() / "plans" / f"{_key(lowered.as_text(), topology)}.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if "needed" in found:
            raise NoRoomError(found["needed"])
        return Memory(**found)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        result = compile_for_memory(lowered, bytes_per_device(arguments), tick)
    except NoRoomError as error:
        path.write_text(json.dumps({"needed": error.needed}), encoding="utf-8")
        raise
    path.write_text(json.dumps(dataclasses.asdict(result)), encoding="utf-8")
    return result


def _key(program: str, topology: Topology) -> str:
    """Names a compilation by all it depends on."""
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")]
    return hashlib.sha256("\n".join([str(topology), *versions, program]).encode()).hexdigest()
