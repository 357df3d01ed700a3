"""One machine for every test: eight CPU devices, strict shapes, no network."""

import contextlib
import gc
import getpass
import importlib.metadata
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

# Before anything imports jax. A flag that is already there is replaced: tests rely on eight.
_flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
_flags = f"{_flags} --xla_force_host_platform_device_count=8".strip()
# A third of the time to compile; tiny models run as fast.
_QUICK = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # where the flag is known
    _QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{_flags} {_QUICK}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["MPLBACKEND"] = "agg"

import jax
import numpy as np
import psutil
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

jax.devices()
os.environ["XLA_FLAGS"] = _flags  # the TPU's compiler ends the process where it does not know one
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiled programs outlive the run, which makes the second run much shorter.
_cache = pathlib.Path(tempfile.gettempdir()) / f"vla_jax_tests_{getpass.getuser()}"
jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

_MOST_MEMORY = 2 << 30  # bytes of a worker
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


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """Compiled programs are let go where they have grown; a file seldom needs those of another."""
    yield
    if psutil.Process().memory_info().rss > _MOST_MEMORY:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def no_cache():
    """Programs compiled for devices that are not there cannot be read back."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", before)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def quick_compile():
    """Flags of XLA for other processes of a test."""
    return _QUICK


@pytest.fixture
def screenshot(tmp_path):
    """Shows a page in Chromium and returns what a person would see, uint8 [y, x, 3]."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next((found for name in names if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("needs Chromium on the path, e.g. apt-get install chromium")

    def take(path, *, width, height, dark=False):
        picture = tmp_path / "screenshot.png"
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},{height}"]
        command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
        command += [f"--screenshot={picture}", f"file://{path}"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with Image.open(picture) as opened:
            return np.asarray(opened.convert("RGB"))

    return take


class Job:
    """The processes of one job on this machine, their output in files.

    Args:
      folder: for the output.
      commands: the arguments of each interpreter.
      environment: variables that are set, in all of them.
    """

    def __init__(self, folder, commands, environment):
        self._folder = folder
        self.processes = []
        for number, command in enumerate(commands):
            files = [folder.joinpath(f"{number}.{name}").open("wb") for name in ("out", "err")]
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-W", "ignore", *command],
                    env=os.environ | environment,
                    stdin=subprocess.DEVNULL,
                    stdout=files[0],
                    stderr=files[1],
                    start_new_session=True,  # a kill takes the workers that it may have started
                )
            )
            for file in files:
                file.close()

    def wait(self, timeout=300):
        """Returns exit code, output and errors of each process; the first number is the code."""
        deadline = time.monotonic() + timeout
        codes = [p.wait(max(deadline - time.monotonic(), 0.1)) for p in self.processes]
        return [(code, *self.texts(number)) for number, code in enumerate(codes)]

    def texts(self, number):
        """Returns output and errors of a process so far."""
        paths = [self._folder / f"{number}.{name}" for name in ("out", "err")]
        return tuple(path.read_text(encoding="utf-8") for path in paths)

    def kill(self, number):
        """Ends a process as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.processes[number].pid, signal.SIGKILL)
        self.processes[number].wait()


@pytest.fixture(scope="session")
def start_job(tmp_path_factory):
    """Starts a command line, or a program, as a job of so many processes of so many CPU devices."""
    jobs = []

    def start(*arguments, processes=1, devices=2, program=None, before=lambda number: ""):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        environment = {
            "XLA_FLAGS": f"{_QUICK} --xla_force_host_platform_device_count={devices}",
            "JAX_COMPILATION_CACHE_DIR": str(_cache),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONUNBUFFERED": "1",
        }
        program = program or "from vla_jax.cli.main import main; main()"
        commands = []
        for number in range(processes):
            place = (
                f"--coordinator=127.0.0.1:{port}",
                f"--processes={processes}",
                f"--process={number}",
            )
            more = place if processes > 1 else ()
            commands.append(["-c", f"{before(number)}\n{program}", *map(str, arguments), *more])
        job = Job(tmp_path_factory.mktemp("job"), commands, environment)
        jobs.append(job)
        return job

    yield start
    for job in jobs:
        for number in range(len(job.processes)):
            job.kill(number)
