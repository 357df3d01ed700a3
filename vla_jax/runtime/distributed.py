"""Several processes as one program: on a TPU pod, under Slurm or Open MPI, or by an address.

`jax.distributed` connects them. What belongs to a place and not to a run (addresses, the number of
this process) is told by flags or the environment, never by a run's configuration: that is the same
in all processes, and a run may go on elsewhere.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import platform
import queue
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jaxlib.version
from jax._src import clusters

from vla_jax.core.errors import UserError
from vla_jax.runtime import lifeline, peers, progress

PREFIX = "VLA_JAX_"  # of the environment variables
_CLUSTERS = ("auto", "none", "slurm", "ompi", "mpi4py", "gcetpu", "gketpu", "k8s")
_OPEN_MPI_SIZE = "OMPI_COMM_WORLD_SIZE"
_GRACE = 30  # seconds that JAX waits longer than we do, so that it is us who say what is wrong


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """How the processes of a job find each other.

    Attributes:
      coordinator: HOST:PORT at which process 0 is met; None leaves it to the cluster.
      processes: how many there are; None likewise.
      process: the number of this one, from 0; None likewise.
      cluster: what is asked for the rest: slurm, ompi, mpi4py, gcetpu, gketpu, k8s; auto finds out,
        none asks nobody.
      start_timeout: seconds until all must have met.
      heartbeat_timeout: seconds of silence after which a process counts as gone and ends the job.

    Raises:
      UserError: a value is out of range.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    cluster: str = "auto"
    start_timeout: int = 300
    heartbeat_timeout: int = 100

    def __post_init__(self) -> None:
        if self.coordinator is not None and not re.fullmatch(r"\S+:\d+", self.coordinator):
            raise UserError("coordinator", expected="HOST:PORT", found=self.coordinator)
        if self.cluster not in _CLUSTERS:
            raise UserError(
                "cluster", expected=f"one of {', '.join(_CLUSTERS)}", found=self.cluster
            )
        for name in ("processes", "start_timeout", "heartbeat_timeout"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(name, expected="1 or more", found=value)
        if self.process is not None and self.process not in range(self.processes or sys.maxsize):
            expected = f"a number from 0, below the number of processes ({self.processes})"
            raise UserError("process", expected=expected, found=self.process)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "DistributedConfig":
        """Returns the values given; the environment (`VLA_JAX_PROCESS`, ...) fills in the rest.

        Raises:
          UserError: a value is out of range, or a variable is no number.
        """
        values = {}
        for field in dataclasses.fields(cls):
            variable = f"{PREFIX}{field.name.upper()}"
            value = given.get(field.name)
            if value is None and (text := os.environ.get(variable)):
                is_text = field.name in ("coordinator", "cluster")
                if not is_text and not text.isdigit():
                    raise UserError(f"${variable}", expected="a number", found=text)
                value = text if is_text else int(text)
            if value is not None:
                values[field.name] = value
        return cls(**values)


class _Place(NamedTuple):
    """Where this process stands among all; `devices` are the only GPUs it may see, if not None."""

    coordinator: str
    processes: int
    process: int
    devices: Sequence[int] | None


@contextlib.contextmanager
def joined(config: DistributedConfig) -> Iterator[None]:
    """Connects this process with the others of its job, if there are any, and parts in the end.

    Has to come before JAX computes anything. Only process 0 prints from now on. Who leaves with an
    exception must go through `lifeline.leave`, so that nobody waits for it.

    Raises:
      UserError: the others are not met in time, or run another version.
    """
    place = _find(config)
    if place is None:
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    _connect(place, config)
    # JAX has taken SIGTERM for its preemption service, which would swallow it outside the loop.
    signal.signal(signal.SIGTERM, handler)
    hosts = peers.gather("host", socket.gethostname())
    line = lifeline.Lifeline(peers.client(), place.process, hosts, config.heartbeat_timeout)
    line.start()
    lifeline.use(line)
    if not peers.is_first():
        progress.mute()
    peers.agree("versions", versions(), "Install the same versions on all hosts")
    yield
    peers.wait("end")
    line.stop()
    lifeline.use(None)
    jax.distributed.shutdown()


def versions() -> dict[str, str]:
    """Returns what computes here: the versions, and a fingerprint of this package's source."""
    root = pathlib.Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "vla_jax": digest.hexdigest()[:10],
    }


def _find(config: DistributedConfig) -> _Place | None:
    """Returns where this process stands; None if it is alone.

    Raises:
      UserError: only a part is known.
    """
    coordinator, processes, process = known = config.coordinator, config.processes, config.process
    devices = None
    if config.cluster != "none" and None in known:
        method = None if config.cluster == "auto" else config.cluster
        try:
            # JAX's own, of which `jax.distributed.initialize` does not tell the outcome.
            detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
            coordinator, processes, process, devices = detect(
                *known, None, method, config.start_timeout
            )
        except (KeyError, ValueError, RuntimeError, OSError) as error:
            # From 0.11 on JAX knows Open MPI 5, and stops where mpi4py is missing; of processes
            # that it has started `_check_alone` says what to do, and one alone needs nothing.
            if config.cluster != "auto" or _OPEN_MPI_SIZE not in os.environ:
                fix = "Give --coordinator, --processes and --process"
                raise UserError(f"cluster {config.cluster}: {error}", fix=fix) from error
    if coordinator is None or processes is None or process is None:
        _check_alone((coordinator, processes, process), config)
        return None
    if processes == 1:
        return None
    return _Place(coordinator, processes, process, None if _sees_its_own() else devices)


def _check_alone(known: Any, config: DistributedConfig) -> None:
    fix = "Give --coordinator=HOST:PORT, --processes=N and --process=I"
    names = ("coordinator", "processes", "process")
    missing = [name for name, value in zip(names, known, strict=True) if value is None]
    if len(missing) < len(names) or config.cluster not in ("auto", "none"):
        wanted = "all three of the job's address, its size and this process's number"
        raise UserError("processes", expected=wanted, found=f"no {', '.join(missing)}", fix=fix)
    # Newer Open MPI without mpi4py is not found: its processes would overwrite each other's run.
    started = os.environ.get(_OPEN_MPI_SIZE, "1")
    if config.cluster == "auto" and started != "1":
        raise UserError(
            "processes",
            expected="an address at which those that Open MPI started can meet",
            found=f"{started} processes and no address",
            fix=f"{fix} ($OMPI_COMM_WORLD_SIZE, $OMPI_COMM_WORLD_RANK), or --cluster=none",
        )


def _sees_its_own() -> bool:
    """Whether the launcher shows each process its own GPUs, or all of a host to its only one.

    JAX takes the one whose number is that of the process on its host otherwise.
    """
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    of_slurm = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    of_ompi = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "")
    only = re.match(r"1\b", of_slurm) or of_ompi == "1"
    return bool(only) or (shown is not None and "," not in shown)


def _connect(place: _Place, config: DistributedConfig) -> None:
    """Meets the others.

    Raises:
      UserError: not all come in time, or the address cannot be used.
    """
    lifeline.use(lifeline.Connecting())
    outcome: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                coordinator_address=place.coordinator,
                num_processes=place.processes,
                process_id=place.process,
                local_device_ids=place.devices,
                cluster_detection_method="deactivate",
                initialization_timeout=config.start_timeout + _GRACE,
                heartbeat_timeout_seconds=config.heartbeat_timeout + _GRACE,
                shutdown_timeout_seconds=config.heartbeat_timeout,
            )
            outcome.put(None)
        except Exception as error:  # handed over
            outcome.put(error)

    # In a thread: JAX ends the process with a stack trace where it finds nobody.
    threading.Thread(target=initialize, name="connect", daemon=True).start()
    try:
        error = outcome.get(timeout=config.start_timeout)
    except queue.Empty:
        raise _nobody(place, config.start_timeout) from None
    if error is not None:
        raise UserError(
            f"coordinator {place.coordinator}: {str(error).splitlines()[0]}",
            fix="Choose another port, or end what uses this one",
        ) from error


def _nobody(place: _Place, seconds: int) -> UserError:
    host, _, port = place.coordinator.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        return UserError(
            f"coordinator {place.coordinator}",
            expected=f"process 0 of {place.processes} there within {seconds} s",
            found=f"nobody ({error.strerror or error})",
            fix="Start process 0, check address and firewall, or raise --start_timeout",
        )
    return UserError(
        f"coordinator {place.coordinator}",
        expected=f"{place.processes} processes there within {seconds} s",
        found="fewer",
        fix="Start all of them, check their addresses and numbers, or raise --start_timeout",
    )
