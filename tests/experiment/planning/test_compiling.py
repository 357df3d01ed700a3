"""What is compiled is remembered under all that it depends on; a fake stands for the compiler."""

import dataclasses
import os
import types

import jax
import pytest

from vla_jax.experiment.planning import compiling
from vla_jax.runtime import gpu_compiler, topology
from vla_jax.runtime.gpu_program import Program
from vla_jax.runtime.mesh import MeshConfig
from vla_jax.runtime.topology import Memory, NoRoomError, Topology

MEMORY = Memory(arguments=1, temporaries=2, output=3, aliased=3, peak=3)
TEXT = "HloModule m\n\nENTRY %main (a: f32[4]) -> f32[4] {\n  ROOT %c = f32[4]{0} copy(%a)\n}\n"


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Lowers for the eight devices that are here; compiles nothing, and counts."""
    fake = types.SimpleNamespace(times=0, options=None, error=None, folder=tmp_path)

    def compile_lowered(lowered, arguments, tick, options=None):
        os.write(2, b"very slow compile?\n")
        fake.times, fake.options = fake.times + 1, options
        if fake.error:
            raise fake.error
        return types.SimpleNamespace(as_text=lambda: TEXT)

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(gpu_compiler, "version", lambda: "jax_cuda13_plugin 1")
    monkeypatch.setattr(Topology, "compiler_devices", lambda self: jax.devices())
    monkeypatch.setattr(topology, "compile_lowered", compile_lowered)
    monkeypatch.setattr(topology, "memory_of", lambda compiled: MEMORY)
    return fake


def compiled(config, **changes):
    config = dataclasses.replace(config, mesh=MeshConfig(data=1, fsdp=8), **changes)
    return compiling.train_step(config, 512, Topology.parse("h200:8"), lambda seconds: None)


def test_the_second_time_it_is_remembered(config, compiler, capsys):
    found = compiled(config)
    assert found.memory == MEMORY
    assert found.program == Program(kernels={"copy": 1}, collectives={})
    assert compiler.options == gpu_compiler.OPTIONS
    assert compiled(config) == found
    assert compiler.times == 1
    compiled(config, model=dataclasses.replace(config.model, remat="dots"))
    assert compiler.times == 2
    # What is damaged is made again, with a note.
    for file in (compiler.folder / "train_steps").glob("*.json"):
        file.write_text('{"memory": {"arguments": "many"}}')
    assert compiled(config) == found
    assert compiler.times == 3
    assert "compiled again: " in capsys.readouterr().out


def test_what_the_compiler_says_goes_to_a_file(config, compiler, capfd):
    compiled(config)
    assert (compiler.folder / "train_steps" / "compiler.log").read_text() == "very slow compile?\n"
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_that_there_was_no_room_is_remembered_too(config, compiler):
    compiler.error = NoRoomError(7e9)
    for _ in range(2):
        with pytest.raises(NoRoomError) as raised:
            compiled(config)
        assert raised.value.needed == 7e9
    assert compiler.times == 1


def test_where_cudnns_rules_lie_does_not_count(monkeypatch):
    monkeypatch.setattr(gpu_compiler, "version", lambda: "jax_cuda13_plugin 1")
    machines = Topology.parse("h200:8")
    call = 'stablehlo.custom_call @CustomSPMDPartitioning(%a) {{backend_config = "{}", x = "{}"}}'
    keys = {compiling._key(call.format(*n), machines) for n in ((1, 2), (3, 2), (1, 4))}
    assert len(keys) == 2
