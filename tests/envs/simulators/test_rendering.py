"""Which OpenGL is taken where there is no display."""

import sys

import pytest

from vla_jax.core.errors import UserError
from vla_jax.envs import rendering


@pytest.fixture
def machine(monkeypatch):
    def make(*libraries, variable=None, display=None, platform="linux", imported=False):
        monkeypatch.setattr(rendering.sys, "platform", platform)
        monkeypatch.setattr(
            rendering.ctypes.util, "find_library", lambda name: name if name in libraries else None
        )
        for name, value in (("MUJOCO_GL", variable), ("DISPLAY", display)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        monkeypatch.delitem(sys.modules, "mujoco", raising=False)
        if imported:
            monkeypatch.setitem(sys.modules, "mujoco", object())
        rendering.choose()
        return rendering.os.environ.get("MUJOCO_GL")

    return make


def test_without_a_display_what_is_there_is_taken(machine):
    assert machine("EGL", "OSMesa") == "egl"
    assert machine("OSMesa") == "osmesa"


def test_what_a_person_has_set_stays(machine):
    assert machine("EGL", "OSMesa", variable="osmesa") == "osmesa"
    assert machine("EGL", display=":0") is None
    assert machine(platform="darwin") is None


def test_what_is_missing_is_named_with_the_way_to_install_it(machine):
    with pytest.raises(UserError, match=r"MUJOCO_GL=egl: libEGL is not installed.*libegl1"):
        machine("OSMesa", variable="egl")
    with pytest.raises(UserError, match=r"cannot draw.*apt-get install .*libosmesa6"):
        machine()


def test_mujoco_that_has_been_imported_cannot_be_told(machine):
    with pytest.raises(UserError, match="Start the program with MUJOCO_GL=egl"):
        machine("EGL", imported=True)
    assert machine("EGL", variable="egl", imported=True) == "egl"
