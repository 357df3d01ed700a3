"""One machine for every test: eight CPU devices, strict shapes, no network."""

import getpass
import os
import pathlib
import re
import socket
import tempfile

# Before anything imports jax. A flag that is already there is replaced: tests rely on eight.
_flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
os.environ["XLA_FLAGS"] = f"{_flags} --xla_force_host_platform_device_count=8".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["MPLBACKEND"] = "agg"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiled programs outlive the run, which makes the second run much shorter.
_cache = pathlib.Path(tempfile.gettempdir()) / f"vla_jax_tests_{getpass.getuser()}"
jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

_connect = socket.socket.connect
_connect_ex = socket.socket.connect_ex


def _is_local(family, address):
    if family == socket.AF_UNIX:
        return True
    return str(address[0]) in {"localhost", "127.0.0.1", "::1"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A test that reaches for the network fails; talking to this machine is fine."""

    def refusing(real):
        def connect(self, address):
            if not _is_local(self.family, address):
                raise RuntimeError(f"tests do not use the network, tried {address}")
            return real(self, address)

        return connect

    monkeypatch.setattr(socket.socket, "connect", refusing(_connect))
    monkeypatch.setattr(socket.socket, "connect_ex", refusing(_connect_ex))
