"""Requests to stop: Ctrl-C, SIGTERM, and the maintenance events of a cloud.

A scheduler that takes the machine away sends SIGTERM and waits a little. While a loop runs, the
signal is noted and the loop saves before it ends; at other times it ends the program at once.
Where several processes train together they must stop after the same step: there JAX's distributed
service takes SIGTERM and agrees on one (`multihost_utils.reached_preemption_sync_point`).
"""

import os
import signal
import threading
import urllib.request
from types import FrameType

import jax
from jax.experimental import multihost_utils

from vla_jax.core.errors import Preempted
from vla_jax.runtime import progress

_EVENT = "computeMetadata/v1/instance/maintenance-event?wait_for_change=true&timeout_sec=60"
_SECONDS_BETWEEN_TRIES = 30.0


class Interruption:
    """Takes over the signals while in context; a second Ctrl-C is immediate."""

    def __init__(self) -> None:
        self._asked: int | None = None
        self._together = jax.process_count() > 1

    def __enter__(self) -> "Interruption":
        """Takes over the signals, SIGTERM only where JAX has not, and watches for maintenance."""
        numbers = (signal.SIGINT,) if self._together else (signal.SIGINT, signal.SIGTERM)
        self._previous = {number: signal.signal(number, self._ask) for number in numbers}
        if jax.default_backend() == "tpu":
            threading.Thread(target=_await_maintenance, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Gives the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def reached(self, step: int) -> bool:
        """Tells whether to stop after a step; to be asked after every one."""
        if self._together and multihost_utils.reached_preemption_sync_point(step):
            self._asked = signal.SIGTERM
        return self._asked is not None

    def stopped(self, message: str) -> BaseException:
        """Returns what to raise once all is saved: of Ctrl-C, or of a machine taken away."""
        return Preempted(message) if self._asked == signal.SIGTERM else KeyboardInterrupt(message)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        # Processes that train together cannot each stop where they are and still save.
        if number == signal.SIGINT and (self._together or self._asked is not None):
            raise KeyboardInterrupt
        self._asked = number
        progress.note("stopping after this step; the run will be saved")


def end_on_sigterm() -> None:
    """Makes SIGTERM raise `Preempted` wherever the program is, for the time outside of the loop.

    To be called before `jax.distributed.initialize`, which takes the signal over.
    """
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    raise Preempted("stopped by SIGTERM")


def _await_maintenance() -> None:
    """Sends this process SIGTERM as soon as Google Cloud announces maintenance of its TPU VM.

    From the metadata server of the machine, see
    cloud.google.com/compute/docs/metadata/getting-live-migration-notice; where there is none it
    goes on asking in vain. A spot machine that is taken away sends SIGTERM by itself.
    """
    while (event := _event()) in (None, "NONE"):
        if event is None:
            threading.Event().wait(_SECONDS_BETWEEN_TRIES)
    progress.note(f"maintenance of this machine is announced: {event}")
    os.kill(os.getpid(), signal.SIGTERM)


def _event() -> str | None:
    """Waits for a change; returns the event, None where the server does not answer."""
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/{_EVENT}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=90) as answer:
            return answer.read().decode().strip()
    except OSError:
        return None
