import importlib.util
import re
import types

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from vla_jax.core.errors import UserError
from vla_jax.runtime import gpu_compiler, topology
from vla_jax.runtime.chips import CHIPS
from vla_jax.runtime.topology import Topology


@pytest.mark.parametrize(
    ("text", "name", "chips", "devices", "again"),
    [
        ("v5e:4x4", "v5e", 16, 16, "v5e:4x4"),
        ("v4:8x8x8", "v4", 512, 512, "v4:8x8x8"),
        ("TPU7x:4x4x4", "v7x", 64, 128, "v7x:4x4x4"),  # two devices per chip
        ("h200:8", "h200", 8, 8, "h200:8"),
        ("h100:8x4", "h100", 32, 32, "h100:8x4"),
        ("b200:1", "b200", 1, 1, "b200:1"),
    ],
)
def test_topologies(text, name, chips, devices, again):
    found = Topology.parse(text)
    assert (found.chip.name, found.chips, found.devices, str(found)) == (
        name,
        chips,
        devices,
        again,
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("v5:4x4", "expected CHIP:SHAPE.*nearest is 'v5"),
        ("v5p", "expected CHIP:SHAPE"),
        ("v5p:4x0x4", "expected CHIP:SHAPE"),
        ("v5p:4x4", "expected 3 sides"),
        ("v5e:32x32", "at most 16x16"),
        ("h100:16", "up to 8 GPUs"),
        ("h100:4x2", "up to 8 GPUs, or 8xNODES"),
    ],
)
def test_what_there_is_no_such_slice_of_is_refused(text, reason):
    with pytest.raises(UserError, match=reason):
        Topology.parse(text)


def test_without_libtpu_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"expected libtpu.*pip install 'vla_jax\[plan\]'"):
        Topology.parse("v5e:2x2").compiler_devices()


def test_without_the_plug_in_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"h200: .*pip install 'vla_jax\[plan-gpu\]'"):
        Topology.parse("h200:8").compiler_devices()


def test_gpus_are_described_to_their_compiler(monkeypatch):
    asked = {}
    monkeypatch.setattr(gpu_compiler, "version", lambda: "jax_cuda13_plugin 1")
    monkeypatch.setattr(
        topologies,
        "get_topology_desc",
        lambda name, **options: asked.update(options) or types.SimpleNamespace(devices=[name]),
    )
    assert Topology.parse("h200:8x2").compiler_devices() == [""]
    assert (asked["platform"], asked["topology"]) == ("cuda", "2x8x1")
    assert "device_memory_size: 141000000000\n" in asked["target_config"]


@pytest.mark.parametrize("chip", [chip for chip in CHIPS.values() if chip.platform == "gpu"])
def test_every_gpu_has_a_description(chip):
    text = gpu_compiler.target(chip)
    assert text.count("{") == text.count("}") == 3
    assert f"memory_bandwidth: {chip.bandwidth:.0f}\n" in text
    assert re.search(r"core_count: 1\d\d\n", text)


def test_a_compiler_without_its_assembler_is_told_in_one_line():
    with (
        pytest.raises(UserError, match=r"expected ptxas\. pip install 'vla_jax\[plan-gpu\]'"),
        gpu_compiler.tool_errors(),
    ):
        raise jax.errors.JaxRuntimeError("NOT_FOUND: Couldn't find a suitable version of ptxas.")
    with pytest.raises(jax.errors.JaxRuntimeError), gpu_compiler.tool_errors():
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")


def test_a_plug_in_of_another_version_is_told_in_one_line(monkeypatch):
    def refuse(name, **options):
        raise RuntimeError("Unknown platform cuda\nmore")

    monkeypatch.setattr(gpu_compiler, "version", lambda: "jax_cuda13_plugin 1")
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(UserError, match=r"^jax_cuda13_plugin 1: Unknown platform cuda\. pip "):
        Topology.parse("a100:8").compiler_devices()


def test_the_memory_of_a_program():
    x = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    lowered = jax.jit(lambda a, b: (a @ b @ b, b + 1), donate_argnums=1).lower(x, x)
    seconds = []
    memory = topology.memory_of(topology.compile_lowered(lowered, 0, seconds.append))
    size = 256 * 256 * 4
    assert memory.arguments == 2 * size
    assert memory.output >= 2 * size
    assert memory.aliased == size
    assert memory.temporaries >= size  # a @ b
    assert memory.total == memory.arguments + memory.temporaries + memory.output - memory.aliased
    assert seconds


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.31G of 15.75G hbm.",
            20.31,
        ),
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total "
            "memory required for HLO temporaries (51.73G) exceeds available HBM (15.75G).",
            51.73 + 8,
        ),
        ("RESOURCE_EXHAUSTED: in words of another version", None),
    ],
)
def test_a_program_that_does_not_fit_tells_what_it_needs(message, gib):
    def compile(compiler_options):
        raise RuntimeError(message)

    program = types.SimpleNamespace(compile=compile)
    with pytest.raises(topology.NoRoomError) as raised:
        topology.compile_lowered(program, 8 * 2**30, lambda seconds: None)
    expected = None if gib is None else pytest.approx(gib * 2**30)
    assert raised.value.needed == expected


def test_other_failures_of_the_compiler_are_not_hidden():
    def compile(compiler_options):
        raise RuntimeError("INTERNAL: a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        topology.compile_lowered(types.SimpleNamespace(compile=compile), 0, lambda s: None)
