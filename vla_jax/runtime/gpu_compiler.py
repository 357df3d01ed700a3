"""XLA's compiler for GPUs that are not here; it comes with JAX's CUDA plug-in and needs no driver.

Without a GPU it cannot try kernels, so matrix products go to cuBLAS and nothing is tuned: memory
and collectives are those of a run, the choice of tiles inside a fusion may differ. Calls of cuDNN
are taken as they are: neither their workspace is counted nor asked whether cuDNN has such a kernel.
"""

import contextlib
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import jax
from jax.experimental import topologies

from vla_jax.core.errors import UserError
from vla_jax.runtime.chips import Chip

INSTALL = "pip install 'vla_jax[plan-gpu]' on Linux (0.7 GB)"
# What needs a device is left out, see above.
OPTIONS: Mapping[str, Any] = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
_CUDNN = 91000  # only said: cuDNN's attention is traced the same with every later one


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Core:
    """What the compiler asks of a GPU beyond its memory.

    Attributes:
      capability: compute capability, major and minor.
      special: whether code for this very architecture is made (`sm_90a`).
      multiprocessors: of the whole chip.
      float_units: float32 units of each of them.
      shared: bytes of shared memory of each of them.
      cache: bytes of level 2 cache.
      clock: GHz, the boost clock.
    """

    capability: tuple[int, int]
    special: bool
    multiprocessors: int
    float_units: int
    shared: int
    cache: int
    clock: float


# Sources: NVIDIA's architecture papers of A100, H100 and Blackwell, the CUDA programming guide
# (table of compute capabilities), and xla:xla/backends/gpu/target_config/specs.
_MIB = 2**20
_AMPERE = _Core(
    capability=(8, 0),
    special=False,
    multiprocessors=108,
    float_units=64,
    shared=164 * 1024,
    cache=40 * _MIB,
    clock=1.41,
)
_HOPPER = _Core(
    capability=(9, 0),
    special=True,
    multiprocessors=132,
    float_units=128,
    shared=228 * 1024,
    cache=50 * _MIB,
    clock=1.98,
)
_CORES = {
    "a100-40gb": _AMPERE,
    "a100": _AMPERE,
    "h100": _HOPPER,
    "h200": _HOPPER,
    "b200": dataclasses.replace(
        _HOPPER, capability=(10, 0), multiprocessors=148, cache=132_644_864, clock=1.965
    ),
}
_BLOCK_KEEPS = 1024  # bytes of shared memory that a block cannot have


def version() -> str | None:
    """Returns the version of the plug-in, None where there is none."""
    plugin = next((name for name in _PLUGINS if importlib.util.find_spec(name)), None)
    return plugin and f"{plugin} {importlib.metadata.version(plugin)}"


def devices(chip: Chip, node: int, nodes: int) -> Sequence[Any]:
    """Returns devices that programs can be compiled for, and nothing else.

    Args:
      chip: a GPU.
      node: GPUs of a node.
      nodes: how many nodes.

    Raises:
      UserError: the compiler is not installed, or of another version than JAX.
    """
    if version() is None:
        raise UserError(
            f"{chip.name}: its compiler is not here", expected="jax-cuda13-plugin", fix=INSTALL
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it looks for a driver, and says so
    try:
        found = topologies.get_topology_desc(
            "", platform="cuda", target_config=target(chip), topology=f"{nodes}x{node}x1"
        )
    except (RuntimeError, NotImplementedError) as error:
        message = str(error).splitlines()[0]
        raise UserError(f"{version()}: {message}", fix=INSTALL) from error
    return found.devices


def target(chip: Chip) -> str:
    """Returns a GPU as XLA describes it to its compiler: a `GpuTargetConfigProto` in text."""
    core = _CORES[chip.name]
    major, minor = core.capability
    extension = "ACCELERATED_FEATURES" if core.special else "NONE"
    registers = 65536
    return f"""
    platform_name: "CUDA"
    device_description_str: "NVIDIA {chip.name.upper()}"
    dnn_version_info {{ major: 9 minor: 10 }}
    gpu_device_info {{
      cuda_compute_capability {{
        major: {major} minor: {minor} feature_extension: {extension}
      }}
      core_count: {core.multiprocessors}
      fpus_per_core: {core.float_units}
      clock_rate_ghz: {core.clock}
      shared_memory_per_core: {core.shared}
      shared_memory_per_block_optin: {core.shared - _BLOCK_KEEPS}
      shared_memory_per_block: {48 * 1024}
      l2_cache_size: {core.cache}
      device_memory_size: {chip.memory:.0f}
      memory_bandwidth: {chip.bandwidth:.0f}
      registers_per_core_limit: {registers}
      registers_per_block_limit: {registers}
      threads_per_warp: 32
      threads_per_block_limit: 1024
      threads_per_core_limit: 2048
      thread_dim_limit_x: 1024
      thread_dim_limit_y: 1024
      thread_dim_limit_z: 64
      block_dim_limit_x: {2**31 - 1}
      block_dim_limit_y: 65535
      block_dim_limit_z: 65535
    }}
    """


@contextlib.contextmanager
def tool_errors() -> Iterator[None]:
    """Turns "no ptxas" into a UserError: the plug-in is here, NVIDIA's assembler is not."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not re.search(r"ptxas|nvlink", str(error)):
            raise
        raise UserError(
            "the GPUs' compiler lacks NVIDIA's assembler", expected="ptxas", fix=INSTALL
        ) from error


@contextlib.contextmanager
def quiet(log: pathlib.Path) -> Iterator[None]:
    """Sends what the compiler writes to standard error, such as that it is slow, to a file."""
    sys.stderr.flush()
    screen = os.dup(2)
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 2)
            yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)


@contextlib.contextmanager
def cudnn_as_if_here() -> Iterator[None]:
    """Lets JAX trace cuDNN's attention where there is no cuDNN: it asks for its version alone."""
    source = importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
    with mock.patch.object(source, "check_cudnn_version", return_value=_CUDNN):
        yield
