"""Which platforms JAX looks for, by what the machine has."""

import importlib.machinery
import os
import pathlib
import types

import pytest

from vla_jax.runtime import platforms

GOOGLE, OTHER = "0x1ae0", "0x8086"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without accelerators, libtpu installed; files are added below it."""
    specs = {"libtpu": importlib.machinery.ModuleSpec("libtpu", None)}

    class Inside:
        def __call__(self, name):
            return pathlib.Path(tmp_path, str(name).lstrip("/"))

    inside = Inside()
    inside.specs = specs
    util = types.SimpleNamespace(find_spec=specs.get)
    monkeypatch.setattr(platforms, "pathlib", types.SimpleNamespace(Path=inside))
    monkeypatch.setattr(platforms, "importlib", types.SimpleNamespace(util=util))
    monkeypatch.setattr(platforms, "sys", types.SimpleNamespace(modules={}))
    for name in ("JAX_PLATFORMS", "JAX_FORCE_TPU_INIT", *platforms.QUIET):
        monkeypatch.setenv(name, "")  # so that what is set below is undone
        monkeypatch.delenv(name)
    return inside


def add(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def add_device(machine, vendor, kind):
    add(machine("/sys/bus/pci/devices/0000:00:04.0/vendor"), f"{vendor}\n")
    add(machine("/sys/bus/pci/devices/0000:00:04.0/class"), f"{kind}\n")


def test_without_accelerators_jax_takes_the_cpu(machine):
    platforms.settle()
    assert os.environ["JAX_PLATFORMS"] == "cpu"


def test_a_jax_that_is_imported_is_told(machine):
    told = []

    class Jax:
        class config:
            update = staticmethod(lambda *change: told.append(change))

    platforms.sys.modules["jax"] = Jax
    platforms.settle()
    assert told == [("jax_platforms", "cpu")]


@pytest.mark.parametrize(
    "there", ["dev/accel0", "libtpu is absent", "JAX_PLATFORMS", "JAX_FORCE_TPU_INIT", "device"]
)
def test_nothing_is_changed_with_a_tpu_without_libtpu_or_against_the_user(
    machine, monkeypatch, there
):
    if there.startswith("JAX"):
        monkeypatch.setenv(there, "tpu")
    elif there == "libtpu is absent":
        machine.specs.clear()
    elif there == "device":
        add_device(machine, GOOGLE, "0x120000")
    else:
        add(machine(there))
    before = dict(os.environ)
    platforms.settle()
    assert dict(os.environ) == before


@pytest.mark.parametrize("there", ["/dev/nvidia0", "/dev/kfd", "a plugin"])
def test_beside_another_accelerator_libtpu_is_kept_quiet_alone(machine, monkeypatch, there):
    if there == "a plugin":
        spec = importlib.machinery.ModuleSpec("jax_plugins", None, is_package=True)
        place = machine("/jax_plugins")
        add(place / "xla_metal/__init__.py")
        spec.submodule_search_locations = [str(place)]
        machine.specs["jax_plugins"] = spec
    else:
        add(machine(there))
    monkeypatch.setenv("TPU_MIN_LOG_LEVEL", "0")  # the user's own
    platforms.settle()
    assert "JAX_PLATFORMS" not in os.environ
    found = {name: os.environ[name] for name in platforms.QUIET}
    assert found == platforms.QUIET | {"TPU_MIN_LOG_LEVEL": "0"}


@pytest.mark.parametrize(
    ("vendor", "kind", "is_tpu"),
    [
        (GOOGLE, "0x120000", True),
        (GOOGLE, "0xff0000", True),
        (GOOGLE, "0x010802", False),  # a disk
        (GOOGLE, "0x020000", False),  # a network card
        (OTHER, "0x120000", False),
    ],
)
def test_a_tpu_is_known_by_vendor_and_class(machine, vendor, kind, is_tpu):
    add_device(machine, vendor, kind)
    assert platforms.has_tpu() is is_tpu


def test_a_device_that_cannot_be_read_is_none(machine):
    add(machine("/sys/bus/pci/devices/0000:00:05.0/class"), "0x120000")
    assert platforms.has_tpu() is False
