"""Worker processes for generation: plain child interpreters, fed by one thread each.

`multiprocessing` would start the caller's main module again in every worker (for a training
program that is seconds of importing JAX, and an error in a script without a main guard) or fork a
process that already runs threads. A child that imports only this package avoids both.
Run as a module, this file is the child.
"""

import collections
import concurrent.futures
import importlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

from vla_jax.core.errors import UserError

_IN_FLIGHT = 3  # chunks per worker that may be finished before the caller takes them


def map_ordered(
    function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], *, workers: int
) -> Generator[Any]:
    """Yields `function(*call)` for each call, in order, computed in `workers` processes.

    Args:
      function: a module-level function of this package.
      calls: the arguments of each call; arguments and results must pickle.
      workers: number of processes; 1 computes in this one.

    Yields:
      The results, in the order of the calls.

    Raises:
      UserError: the function raised it.
      RuntimeError: the function raised anything else, or a worker died or could not start.
    """
    if workers == 1:
        yield from (function(*call) for call in calls)
        return
    children: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
    started: list[subprocess.Popen[bytes]] = []
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    pending: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
    try:
        for _ in range(workers):
            started.append(_start())
            children.put(started[-1])
        for call in calls:
            pending.append(pool.submit(_call, children, function, call))
            if len(pending) > _IN_FLIGHT * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        for child in started:
            child.kill()
        pool.shutdown()
        for child in started:
            child.communicate()


def _start() -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    try:
        return subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
    except OSError as error:
        raise RuntimeError(f"cannot start a data generation worker: {error}") from error


def _call(
    children: "queue.SimpleQueue[subprocess.Popen[bytes]]",
    function: Callable[..., Any],
    call: tuple[Any, ...],
) -> Any:
    child = children.get()
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        pickle.dump((function.__module__, function.__name__, call), child.stdin)
        child.stdin.flush()
        failure, result = pickle.load(child.stdout)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
        raise RuntimeError(f"a data generation worker died (exit {child.poll()})") from error
    finally:
        children.put(child)
    if failure is not None:
        raise failure(result)
    return result


def _serve() -> None:
    """Answers calls on standard input until it closes."""
    # Ctrl-C reaches the whole process group; the parent decides what happens to the children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while True:
        try:
            module, name, call = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = None, getattr(importlib.import_module(module), name)(*call)
        except UserError as error:
            answer = UserError, str(error).removesuffix(".")
        except Exception:
            answer = RuntimeError, f"data generation failed in a worker:\n{traceback.format_exc()}"
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    _serve()
