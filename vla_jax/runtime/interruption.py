"""Requests to stop: Ctrl-C, SIGTERM, and the maintenance events of a cloud.

A scheduler that takes the machine away sends SIGTERM and waits a little. While a loop runs, the
signal is noted and the loop saves before it ends; at other times it ends the program at once.
Several processes that train together stop after the same step, whichever of them was asked.
"""

import os
import signal
import threading
import urllib.request
from types import FrameType

import jax

from vla_jax.core.errors import Preempted
from vla_jax.runtime import peers, progress

_EVENT = "computeMetadata/v1/instance/maintenance-event?wait_for_change=true&timeout_sec=60"
_SECONDS_BETWEEN_TRIES = 30.0


class Interruption:
    """Takes over the signals while in context; a second Ctrl-C is immediate."""

    def __init__(self) -> None:
        self._asked: int | None = None

    def __enter__(self) -> "Interruption":
        """Takes over the signals, and watches for maintenance."""
        self._previous = {
            number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
        }
        if jax.default_backend() == "tpu":
            threading.Thread(target=_await_maintenance, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Gives the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def reached(self, step: int) -> bool:
        """Tells whether to stop after a step; to be asked after every one."""
        if not peers.stop_together(self._asked is not None, step):
            return False
        asked = [number for number in peers.gather("signal", self._asked) if number is not None]
        self._asked = max(asked)  # SIGTERM, if it was one
        return True

    def stopped(self, message: str) -> BaseException:
        """Returns what to raise once all is saved: of Ctrl-C, or of a machine taken away."""
        return Preempted(message) if self._asked == signal.SIGTERM else KeyboardInterrupt(message)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._asked is not None:
            raise KeyboardInterrupt
        self._asked = number
        progress.note("stopping after this step; the run will be saved")


def end_on_sigterm() -> None:
    """Makes SIGTERM raise `Preempted` wherever the program is, for the time outside of the loop.

    `distributed.joined` keeps it, where JAX would take the signal over.
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
