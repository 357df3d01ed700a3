"""What does not fit into memory is refused, in one line, before it is made."""

import dataclasses
import types

import jax
import pytest
import untrained_run

from vla_jax.cli import main
from vla_jax.core.errors import UserError
from vla_jax.experiment import parts
from vla_jax.runtime import memory, mesh

NEEDED = 2**33  # bytes that the loader predicts
VOCABULARY = 600


@pytest.fixture
def config(tmp_path):
    return untrained_run.run_config(tmp_path)


@pytest.fixture
def loader(monkeypatch):
    """A loader that predicts its memory and nothing else."""
    made = types.SimpleNamespace(predicted_ram=lambda: NEEDED)
    monkeypatch.setattr(parts, "Loader", lambda *a, **k: made)
    return made


@pytest.mark.parametrize("missing", [-1, 0, 1])
def test_batches_that_the_host_cannot_hold_are_refused(config, loader, monkeypatch, missing):
    monkeypatch.setattr(memory, "host", lambda: NEEDED - missing)
    if missing <= 0:
        assert parts.make_loader(config, (), None) is loader
        return
    with pytest.raises(UserError, match=r"at most the 8\.0 GiB of this machine, found 8\.0 GiB"):
        parts.make_loader(config, (), None)


def test_a_model_that_no_device_can_hold_is_refused_before_it_is_made(config, monkeypatch):
    model = parts.Model(config, VOCABULARY, mesh.make_mesh(mesh.MeshConfig(), jax.devices()[:1]))
    leaves = jax.tree.leaves(model.abstract_state().params)
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    monkeypatch.setattr(model, "_load", lambda weights: pytest.fail("weights were read"))
    monkeypatch.setattr(memory, "limit", lambda: needed - 1)
    with pytest.raises(UserError, match=r"config\.model: [\d,]+ parameters: expected at most"):
        model.create(None, object())
    monkeypatch.setattr(memory, "limit", lambda: needed)
    model._check_memory()


def test_the_memory_of_devices_is_their_sum_and_else_that_of_the_host(monkeypatch):
    def devices(*stats):
        found = [types.SimpleNamespace(memory_stats=lambda s=s: s) for s in stats]
        monkeypatch.setattr(memory.jax, "local_devices", lambda: found)

    devices({"bytes_limit": 5}, {"bytes_limit": 7})
    assert memory.limit() == 12
    for silent in (None, {}, {"bytes_in_use": 3}):
        devices({"bytes_limit": 5}, silent)
        assert memory.limit() == memory.host()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 8.00 GiB for an array\nwith shape (1,)"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"),
    ],
)
def test_memory_that_ends_under_way_is_told_in_one_line(monkeypatch, capsys, error):
    def fail(arguments):
        raise error

    module = types.SimpleNamespace(main=fail)
    monkeypatch.setattr(main.importlib, "import_module", lambda name: module)
    monkeypatch.setattr(main.platforms, "settle", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main.main(["train"])
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert said.startswith("vla-jax: out of memory: ")
    assert said.count("\n") == 1
    assert "--config.loader.batch_size" in said


def test_another_error_is_not_taken_for_one_of_memory():
    assert main._explain(jax.errors.JaxRuntimeError("INTERNAL: something else")) is None
    assert main._explain(dataclasses.FrozenInstanceError("RESOURCE")) is None
