"""What a program compiled for GPUs does in one run: kernels by kind, and collectives.

Read from the compiler's own text. A loop counts as often as it runs.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

COLLECTIVES = (
    *("all-gather", "all-reduce", "reduce-scatter"),
    *("all-to-all", "ragged-all-to-all", "collective-permute", "collective-broadcast"),
)
_HEAD = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$")
_LINE = re.compile(
    r"^\s+(?:ROOT )?%?[\w.-]+ = (?P<type>\(.*?\)|\S+) (?P<op>[a-z][\w-]*)\((?P<rest>.*)$"
)
_ARRAY = re.compile(r"\b[a-z]+(\d*)[a-z0-9]*\[([\d,]*)\]")
_PARTITIONS = re.compile(r"^HloModule .*\bnum_partitions=(\d+)", re.MULTILINE)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
# Where an instruction that is no kernel names what runs in it.
_INSIDE = {
    "while": "body",
    "call": "to_apply",
    "async-start": "calls",
    "conditional": "true_computation",
}
_LIBRARIES = {"__cublas$": "cuBLAS", "__cudnn$": "cuDNN", "__gpu$xla.gpu.triton": "Triton"}
_FUSIONS = {"__triton": "Triton", "__cudnn": "cuDNN"}
_OTHERS = ("copy", "copy-start", "sort", "rng-bit-generator")

_Bodies = Mapping[str, list[re.Match[str]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """Collectives of one kind.

    Attributes:
      count: how many run.
      sent: bytes that each device sends, around a ring.
    """

    count: int
    sent: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What runs on each device.

    Attributes:
      kernels: how many run, by kind: calls of libraries (`cuBLAS`, `cuDNN`), fusions that Triton
        compiles, XLA's own (`fusion`), and everything else under its name.
      collectives: by kind.
    """

    kernels: Mapping[str, int]
    collectives: Mapping[str, Collective]


def read(text: str) -> Program:
    """Reads a program as `jax.stages.Compiled.as_text` gives it."""
    bodies, entry = _computations(text)
    partitions = _PARTITIONS.search(text)
    devices = int(partitions[1]) if partitions else 1
    kernels: collections.Counter[str] = collections.Counter()
    counts: collections.Counter[str] = collections.Counter()
    sent: collections.Counter[str] = collections.Counter()
    for line, times in _runs(bodies, entry, 1):
        op = line["op"].removesuffix("-start")
        if op in COLLECTIVES:
            counts[op] += times
            sent[op] += times * round(_sent(op, line, devices))
        elif kind := _kernel(line, bodies):
            kernels[kind] += times
    return Program(
        kernels=dict(kernels.most_common()),
        collectives={op: Collective(count=counts[op], sent=sent[op]) for op in sorted(counts)},
    )


def _computations(text: str) -> tuple[_Bodies, str]:
    """Returns the lines of each computation, and the name of the first that runs."""
    bodies: dict[str, list[re.Match[str]]] = {}
    name, entry = "", ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            name = head["name"]
            bodies[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name and (found := _LINE.match(line)):
            bodies[name].append(found)
    return bodies, entry


def _runs(bodies: _Bodies, name: str, times: int) -> Iterator[tuple[re.Match[str], int]]:
    """Yields all lines that run from a computation on, and how often."""
    for line in bodies.get(name, ()):
        op, rest = line["op"], line["rest"]
        inside = _INSIDE.get(op)
        if inside is None:
            yield line, times
        elif found := re.search(rf"\b{inside}=%?([\w.-]+)", rest):
            trips = _TRIPS.search(rest) if op == "while" else None
            yield from _runs(bodies, found[1], times * (int(trips[1]) if trips else 1))


def _kernel(line: re.Match[str], bodies: _Bodies) -> str | None:
    """Returns what kind of kernel an instruction is, None where it is none."""
    op, rest = line["op"], line["rest"]
    if op == "fusion":
        # A library may be called from inside, with the slicing of its operands around it.
        called = re.search(r"\bcalls=%?([\w.-]+)", rest)
        inside = bodies.get(called[1], ()) if called else ()
        kinds = [_kernel(part, bodies) for part in inside if part["op"] == "custom-call"]
        by_compiler = (name for kind, name in _FUSIONS.items() if f'"kind":"{kind}' in rest)
        return next((kind for kind in kinds if kind), next(by_compiler, "fusion"))
    if op == "custom-call":
        found = _TARGET.search(rest)
        target = found[1] if found else op
        return next(
            (name for start, name in _LIBRARIES.items() if target.startswith(start)), target
        )
    return op.removesuffix("-start") if op in _OTHERS else None


def _sent(op: str, line: re.Match[str], devices: int) -> float:
    """Returns the bytes that a device sends for a collective over its group, around a ring."""
    group, size = _group(line["rest"], devices), _bytes(line["type"])
    is_started = line["op"] != op
    if op in ("all-gather", "reduce-scatter"):
        # Of an asynchronous one both ends are named: n parts and one.
        parts = group + 1 if is_started else group if op == "all-gather" else 1
        return size / parts * (group - 1)
    if op == "all-reduce":
        return 2 * size * (group - 1) / group
    size /= 2 if is_started else 1
    return size if op == "collective-permute" else size * (group - 1) / group


def _group(rest: str, devices: int) -> int:
    """Returns how many devices one collective is over, from any of the forms of its groups."""
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return found[1].count(",") + 1
    return devices


def _bytes(kind: str) -> float:
    """Returns the bytes of all arrays of a type."""
    return sum(
        int(bits or 8) / 8 * math.prod(int(side) for side in sides.split(",") if side)
        for bits, sides in _ARRAY.findall(kind)
    )
