"""What keeps the processes of one job from waiting for one that is gone.

A thread in every process tells the others, through the key-value store of `jax.distributed`, that
it is alive, and reads what they tell. A process that fails says so; one that was killed or lost its
network falls silent. Either way every other process ends, within the heartbeat timeout, with one
line and the exit code of the cause. Left alone, JAX would wait in a collective, or abort.

This module does not import JAX, so that the command line can leave through it at no cost.
"""

import contextlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NoReturn

# The exit code of what may be run again as it is (EX_TEMPFAIL): here, when a process vanished.
AGAIN = 75
FIX = "Run the same command again in all processes"

_FAILED, _BEAT, _LEFT = "vla_jax/failed", "vla_jax/beat/", "vla_jax/left"
_BEATS_PER_TIMEOUT = 5
_SECONDS_OF_A_LOOK = 0.5  # how long a process that is done waits for its thread
_SECONDS_TO_READ = 2.0  # what a process that fails waits for the others to hear of it
_SECONDS_TO_LEAVE = 0.5  # the coordinator goes last: with it goes what the others talk through
_SECONDS_FOR_THE_CAUSE = 3.0
# How collectives of Gloo, NCCL and TPUs report that the other end is gone.
_PEER_IS_GONE = re.compile(
    r"gloo|nccl|UNAVAILABLE|ABORTED|coordination|connection (reset|closed|refused)|heartbeat", re.I
)
_current: "Lifeline | Connecting | None" = None


class Lifeline:
    """The thread of one process, and how it leaves.

    Args:
      client: the client of the key-value store (`jax.distributed`).
      index: number of this process.
      hosts: the host of each process.
      timeout: seconds of silence after which a process counts as gone.
    """

    def __init__(self, client: Any, index: int, hosts: Sequence[str], timeout: float):
        self._client, self._index, self._hosts = client, index, tuple(hosts)
        self._timeout = timeout
        self._leaving = threading.Lock()  # taken by whoever ends the process first, for good
        self._heard: dict[str, tuple[str, float]] = {}
        self._thread = threading.Thread(target=self._watch, name="lifeline", daemon=True)

    def start(self) -> None:
        """Begins to tell and to listen."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """Lets go of the others, in good order."""
        self._leaving.acquire(blocking=False)
        # A thread that comes back from JAX while Python shuts down would abort the process.
        self._thread.join()

    def leave(self, message: str, code: int) -> NoReturn:
        """Prints why, tells the others, and ends the process at once with this exit code."""
        if not self._leaving.acquire(blocking=False):
            time.sleep(self._timeout)  # the thread is ending the process
        _say(message)
        cause = {"process": self._index, "message": message, "code": code}
        with contextlib.suppress(Exception):  # another one was first, or the coordinator is gone
            self._client.key_value_set(_FAILED, json.dumps(cause))
        self._exit(code)

    def wait_for_the_cause(self) -> None:
        """Gives the thread a moment to end the process, for a reason better known elsewhere."""
        time.sleep(_SECONDS_FOR_THE_CAUSE)

    def _watch(self) -> None:
        step = self._timeout / _BEATS_PER_TIMEOUT
        look, due = min(step, _SECONDS_OF_A_LOOK), time.monotonic() + step
        while not self._leaving.locked():
            try:
                cause = json.loads(self._client.blocking_key_value_get(_FAILED, int(1000 * look)))
            except Exception as error:  # JAX's own, which this module does not import
                if "DEADLINE_EXCEEDED" not in str(error):
                    self._end(f"{self._name(0)}, the coordinator, is gone. {FIX}.", AGAIN)
                    continue
                if time.monotonic() < due:
                    continue
                due = time.monotonic() + step
                if (silent := self._beat()) is not None:
                    where = f"{self._name(silent)} has been silent for {self._timeout:g} s"
                    self._end(f"{where}. {FIX}.", AGAIN)
            else:
                self._end(f"{self._name(cause['process'])}: {cause['message']}", cause["code"])

    def _beat(self) -> int | None:
        """Says that this process lives; returns one that has not said so for too long."""
        try:
            mine = f"{_BEAT}{self._index}"
            self._client.key_value_set(mine, str(time.monotonic()), allow_overwrite=True)
            beats = dict(self._client.key_value_dir_get(_BEAT))
        except Exception:  # the next reading says what is wrong
            return None
        now = time.monotonic()
        for index in range(len(self._hosts)):
            key = f"{_BEAT}{index}"
            beat = beats.get(key, "")
            if key not in self._heard or self._heard[key][0] != beat:
                self._heard[key] = (beat, now)
            elif now - self._heard[key][1] > self._timeout:
                return index
        return None

    def _end(self, message: str, code: int) -> None:
        if not self._leaving.acquire(blocking=False):
            return  # this process is leaving by itself
        _say(message)
        self._exit(code)

    def _exit(self, code: int) -> NoReturn:
        """Ends the process without the farewell of JAX, which would wait for the others."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        with contextlib.suppress(Exception):
            self._client.wait_at_barrier(_LEFT, int(1000 * _SECONDS_TO_READ))
        if self._index == 0:
            time.sleep(_SECONDS_TO_LEAVE)
        os._exit(code)

    def _name(self, index: int) -> str:
        return f"process {index} on {self._hosts[index]}"


class Connecting:
    """Stands for the lifeline while there is none yet: nobody to tell, and no farewell."""

    def leave(self, message: str, code: int) -> NoReturn:
        """Ends the process at once."""
        _say(message)
        sys.stdout.flush()
        os._exit(code)

    def wait_for_the_cause(self) -> None:
        """Does not: there is nobody who knows better."""


def use(line: Lifeline | Connecting | None) -> None:
    """Makes this the way out of the process; None is the ordinary one."""
    global _current  # noqa: PLW0603 - a process has one
    _current = line


def is_shared() -> bool:
    """Whether other processes wait for this one."""
    return _current is not None


def leave(message: str, code: int) -> None:
    """Ends a process of several with one line, and tells the others; returns if it is alone."""
    if _current is not None:
        _current.leave(message, code)


def explain(error: BaseException) -> str | None:
    """Returns the line for an exception that only says that another process is gone.

    None for all others, and where there is but one process.
    """
    if _current is None or not _PEER_IS_GONE.search(str(error)):
        return None
    _current.wait_for_the_cause()
    return f"another process is gone ({str(error).splitlines()[0]}). {FIX}."


def _say(message: str) -> None:
    sys.stderr.write(f"vla-jax: {message}\n")
    sys.stderr.flush()
