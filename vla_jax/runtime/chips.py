"""What accelerators can do: the published numbers behind every utilisation and every plan.

Sources. TPUs: the system architecture pages of Google Cloud (cloud.google.com/tpu/docs/v4, v5e,
v5p, v6e, tpu7x) and, for the interconnect of v4, Jouppi et al. 2023 (6 links of 50 GB/s). GPUs:
NVIDIA's data sheets of the SXM modules, dense rates (half of those "with sparsity"), and of the DGX
systems for the network. A GPU's memory is counted in decimal bytes, as its data sheet does, so a
few percent stay for the driver.
"""

import dataclasses
import re
from typing import Any, Literal

GIB = 2**30
_GB, _TFLOP = 1e9, 1e12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator, as JAX counts devices.

    Attributes:
      name: short name, as in `v5p:4x4x4`.
      platform: who compiles for it.
      kind: pattern of its `jax.Device.device_kind`.
      flops: dense bfloat16 FLOP/s.
      memory: bytes of device memory.
      bandwidth: of the device memory, bytes/s.
      interconnect: bytes/s it can send to others of its slice or node, all links, one direction.
      network: bytes/s it can send beyond slice or node.
      devices: devices that JAX sees per chip; the numbers above are of one device.
      node: GPUs that share the interconnect; 0 where all of a slice do.
    """

    name: str
    platform: Literal["tpu", "gpu"]
    kind: str
    flops: float
    memory: float
    bandwidth: float
    interconnect: float
    network: float
    devices: int = 1
    node: int = 0


_NODE = 8  # SXM modules


def _chip(
    name: str,
    kind: str,
    tflops: float,
    memory: float,
    bandwidth: float,
    interconnect: float,
    network: float,
    devices: int = 1,
) -> Chip:
    """One row of the table: memory in bytes, the other rates in GB/s and one direction."""
    platform = "tpu" if kind.startswith("TPU") else "gpu"
    return Chip(
        name=name,
        platform=platform,
        kind=kind,
        flops=tflops * _TFLOP,
        memory=memory,
        bandwidth=bandwidth * _GB,
        interconnect=interconnect * _GB,
        network=network * _GB,
        devices=devices,
        node=_NODE if platform == "gpu" else 0,
    )


# Hosts of TPUs have 100 Gb/s or more for their four chips.
CHIPS = {
    chip.name: chip
    for chip in (
        _chip("v4", r"TPU v4", 275, 32 * GIB, 1228, 300, 3.125),
        _chip("v5e", r"TPU v5( lite|e)", 197, 16 * GIB, 819, 200, 3.125),
        _chip("v5p", r"TPU v5p?", 459, 95 * GIB, 2765, 600, 6.25),
        _chip("v6e", r"TPU v6( lite|e)", 918, 32 * GIB, 1638, 400, 12.5),
        # Two chiplets, each a device with half of everything.
        _chip("v7x", r"TPU7x", 2307 / 2, 192 / 2 * GIB, 7380 / 2, 300, 6.25, devices=2),
        _chip("a100-40gb", r"(NVIDIA )?A100-SXM4-40GB", 312, 40 * _GB, 1555, 300, 25),
        _chip("a100", r"(NVIDIA )?A100-SXM4-80GB", 312, 80 * _GB, 2039, 300, 25),
        _chip("h100", r"NVIDIA H100 80GB HBM3", 989, 80 * _GB, 3350, 450, 50),
        _chip("h200", r"NVIDIA H200", 989, 141 * _GB, 4800, 450, 50),
        _chip("b200", r"NVIDIA B200", 2250, 180 * _GB, 8000, 900, 50),
    )
}


def of(device: Any) -> Chip | None:
    """Returns the chip behind a `jax.Device`; None where the table has none (CPUs, PCIe cards)."""
    return named(device.device_kind)


def named(kind: str) -> Chip | None:
    """Returns the chip of a `device_kind`, or of a GPU's name as its driver gives it."""
    return next((chip for chip in CHIPS.values() if re.fullmatch(chip.kind, kind)), None)
