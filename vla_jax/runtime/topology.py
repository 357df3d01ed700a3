"""Machines that are not here, `v5p:8x8x8` or `h200:8x4`, and programs compiled for them.

The TPU's real compiler comes with libtpu, that of GPUs with JAX's plug-in (`gpu_compiler.py`), and
both run on any Linux machine; they say exactly how much memory a program takes.
"""

import dataclasses
import importlib.util
import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax.experimental import topologies

from vla_jax.core.errors import UserError, nearest
from vla_jax.runtime import gpu_compiler, platforms
from vla_jax.runtime.chips import CHIPS, Chip

# Chips per side of a whole pod: cloud.google.com/tpu/docs, by generation.
_PODS = {
    "v4": (16, 16, 16),
    "v5e": (16, 16),
    "v5p": (16, 20, 28),
    "v6e": (16, 16),
    "v7x": (16, 16, 36),
}
_OTHER_NAMES = {"tpu7x": "v7x", "ironwood": "v7x", "trillium": "v6e"}
_EXAMPLES = "v5e:4x4, v5p:4x4x4, h200:8 or h100:8x4 (GPUs of a node x nodes)"
# libtpu locks the chips that it expects.
_ENVIRONMENT = {**platforms.QUIET, "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """A slice of TPUs or nodes of GPUs.

    Attributes:
      chip: what it is made of.
      shape: chips per side of a TPU slice; GPUs per node and nodes.
    """

    chip: Chip
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> "Topology":
        """Reads `NAME:AxBxC`.

        Raises:
          UserError: an unknown chip, or a shape that there is no such slice of.
        """
        name, _, sides = text.lower().partition(":")
        name = _OTHER_NAMES.get(name, name)
        if name not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sides):
            raise UserError(
                f"--topology {text}",
                expected=f"CHIP:SHAPE with a chip of {', '.join(CHIPS)}, such as {_EXAMPLES}",
                found=text,
                fix=nearest(name, list(CHIPS)) if name not in CHIPS else None,
            )
        chip, shape = CHIPS[name], tuple(map(int, sides.split("x")))
        if chip.platform == "gpu":
            shape = (*shape, 1) if len(shape) == 1 else shape
            if len(shape) != 2 or shape[0] > chip.node or (shape[1] > 1 and shape[0] < chip.node):
                raise UserError(
                    f"--topology {text}",
                    expected=f"up to {chip.node} GPUs, or {chip.node}xNODES",
                    found=sides,
                )
            return cls(chip=chip, shape=shape)
        pod = _PODS[name]
        if len(shape) != len(pod) or any(
            side > most for side, most in zip(sorted(shape), pod, strict=False)
        ):
            raise UserError(
                f"--topology {text}",
                expected=f"{len(pod)} sides, rising, of at most {'x'.join(map(str, pod))} chips",
                found=sides,
            )
        return cls(chip=chip, shape=shape)

    def __str__(self) -> str:
        """As it is written: `v5p:8x8x8`."""
        shape = self.shape[:1] if self.chip.platform == "gpu" and self.shape[1] == 1 else self.shape
        return f"{self.chip.name}:{'x'.join(map(str, shape))}"

    @property
    def chips(self) -> int:
        """How many chips one pays for."""
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """How many devices JAX sees."""
        return self.chips * self.chip.devices

    def compiler_devices(self) -> Sequence[Any]:
        """Returns devices that programs can be compiled for, and nothing else.

        Raises:
          UserError: their compiler is not installed, or does not know the slice.
        """
        if self.chip.platform == "gpu":
            return gpu_compiler.devices(self.chip, *self.shape)
        if importlib.util.find_spec("libtpu") is None:
            raise UserError(
                f"--topology {self}: its compiler is not here",
                expected="libtpu",
                found="none",
                fix="pip install 'vla_jax[plan]' on Linux (x86_64), or add --estimate",
            )
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        options: dict[str, Any] = {}
        if self.chip.name == "v4":  # by default each of its two cores is a device
            options = {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)}
        name = {"v7x": "tpu7x"}.get(self.chip.name, self.chip.name)
        name = f"{name}:{'x'.join(map(str, self.shape))}"
        try:
            found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
        except RuntimeError as error:
            message = str(error).splitlines()[0]
            raise UserError(f"--topology {self}: {message}", expected=f"such as {_EXAMPLES}") from (
                error
            )
        return found.devices


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """What a compiled program takes of each device, in bytes.

    Attributes:
      arguments: what it is called with: the state and its part of the batch.
      temporaries: what it allocates while it runs.
      output: what it returns, most of it in place of arguments that were donated.
      aliased: how much of `output` that is.
      peak: the most that is live at once, as the compiler counts.
    """

    arguments: int
    temporaries: int
    output: int
    aliased: int
    peak: int

    @property
    def total(self) -> int:
        """What has to be free for the program to start."""
        return self.arguments + self.temporaries + self.output - self.aliased


class NoRoomError(Exception):
    """The compiler found no way to run a program in the memory of a device.

    Args:
      needed: bytes that it would take, about; None where the compiler did not say.
    """

    def __init__(self, needed: float | None):
        super().__init__(f"needs {needed} bytes")
        self.needed = needed


def compile_lowered(
    lowered: Any,
    arguments: float,
    tick: Callable[[float], None],
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Compiles a lowered program; minutes for a large model. Returns a `jax.stages.Compiled`.

    Args:
      lowered: the output of `jax.jit(...).lower(...)`.
      arguments: bytes that each device holds of what it will be called with.
      tick: called every second with the seconds so far.
      options: of the compiler.

    Raises:
      NoRoomError: it takes more memory than a device has.
    """
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(lowered.compile(compiler_options=options))
        except Exception as error:
            outcome.append(error)

    # In a thread, so that progress is shown and Ctrl-C works while the compiler does.
    thread, began = threading.Thread(target=work, daemon=True), time.monotonic()
    thread.start()
    while thread.is_alive():
        thread.join(1.0)
        tick(time.monotonic() - began)
    (result,) = outcome
    if isinstance(result, Exception):
        if "RESOURCE_EXHAUSTED" not in str(result):
            raise result
        raise NoRoomError(_needed(str(result), arguments)) from result
    return result


def memory_of(compiled: Any) -> Memory:
    """Returns what a compiled program takes."""
    found = compiled.memory_analysis()
    return Memory(
        arguments=found.argument_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        output=found.output_size_in_bytes,
        aliased=found.alias_size_in_bytes,
        peak=found.peak_memory_in_bytes,
    )


def _needed(message: str, arguments: float) -> float | None:
    """Reads from the compiler's refusal how many bytes it would have needed."""
    size = r"([\d.]+)([MGT])"
    scale = {"M": 2**20, "G": 2**30, "T": 2**40}
    if found := re.search(rf"Used {size} of", message):
        return float(found[1]) * scale[found[2]]
    if found := re.search(rf"required for HLO temporaries \({size}\)", message):
        return float(found[1]) * scale[found[2]] + arguments
    return None
