"""Small simulators with the interface of the real ones, which a fresh clone does not have."""

import pathlib
import sys

import pytest

from vla_jax.envs.language_table import source
from vla_jax.envs.metaworld import env as metaworld_env

FAKES = pathlib.Path(__file__).with_name("fakes")
NAMES = tuple(path.stem for path in FAKES.iterdir())


@pytest.fixture
def fakes(monkeypatch):
    """Puts them before what may be installed, here and in child processes; returns their folder."""

    def forget():
        for name in list(sys.modules):
            if name.partition(".")[0] in NAMES:
                del sys.modules[name]
        source.load.cache_clear()
        metaworld_env._goals.cache_clear()

    real = {name: m for name, m in sys.modules.items() if name.partition(".")[0] in NAMES}
    forget()
    monkeypatch.syspath_prepend(str(FAKES))
    monkeypatch.setenv("PYTHONPATH", str(FAKES), prepend=":")
    monkeypatch.setenv("MUJOCO_GL", "glfw")  # whatever this machine can draw with
    yield FAKES
    forget()
    sys.modules.update(real)
