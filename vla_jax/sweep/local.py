"""Runs on this machine, n at a time, each a process of its own with a log of its own."""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from vla_jax.runtime import progress
from vla_jax.sweep import record
from vla_jax.sweep.budget import Budget, Durations
from vla_jax.sweep.plan import Run
from vla_jax.sweep.record import Record, State

PROGRAM = (sys.executable, "-m", "vla_jax.cli.main", "train")
AGAIN = 75  # EX_TEMPFAIL: everything is saved, the same command goes on
_MOST_RESTARTS = 20  # in one command, of one run
_SECONDS_BETWEEN_LOOKS = 0.3
# What is said of runs, in the order in which a table shows them.
WAITING, RUNNING, DONE, FAILED, BLOCKED = "waiting", "running", "done", "failed", "blocked"
OVER_BUDGET, STOPPED = "over budget", "stopped"
Show = Callable[[Mapping[str, str], Mapping[str, Record], float], None]


@dataclasses.dataclass
class _Attempt:
    process: subprocess.Popen[bytes]
    slot: int


class Local:
    """A queue of runs and the processes that work on it.

    Args:
      runs: all runs, each after those it needs.
      jobs: most processes at a time.
      budget: time after which none is started.
      gpus: a GPU for each process, by the number that CUDA_VISIBLE_DEVICES takes; none leaves it
        to the processes.
      program: the command that the arguments of a run are given to.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        jobs: int,
        budget: Budget,
        gpus: Sequence[str] = (),
        program: Sequence[str] = PROGRAM,
    ):
        self._runs = {run.name: run for run in runs}
        self._jobs, self._budget, self._gpus, self._program = jobs, budget, gpus, program
        self.records = {run.name: record.read(run) for run in runs}
        self.states = dict.fromkeys(self._runs, WAITING)
        self._attempts: dict[str, _Attempt] = {}
        self._restarts = dict.fromkeys(self._runs, 0)
        self._asked: int | None = None

    def run(self, show: Show) -> Mapping[str, str]:
        """Works until every run is done, has failed or may not start.

        Ctrl-C and SIGTERM stop the trainings, which save; a second Ctrl-C kills them.

        Args:
          show: called a few times a second with states, records and the seconds so far.

        Returns:
          The state of every run: done, failed, blocked, over budget or stopped.
        """
        handlers = {n: signal.signal(n, self._ask) for n in (signal.SIGINT, signal.SIGTERM)}
        began = time.monotonic()
        try:
            while True:
                self._reap()
                elapsed = time.monotonic() - began
                if self._asked is None:
                    self._start(elapsed)
                show(self.states, self.records, elapsed)
                # Asked to stop, it waits for its own processes, and leaves those of others alone.
                if not (RUNNING in self.states.values() if self._asked is None else self._attempts):
                    break
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        finally:
            for attempt in self._attempts.values():
                _signal(attempt, signal.SIGTERM)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        self._name_the_rest()
        show(self.states, self.records, time.monotonic() - began)
        return self.states

    @property
    def stopped_by(self) -> int | None:
        """The signal that asked to stop, if one did."""
        return self._asked

    def _ask(self, number: int, frame: object) -> None:
        again = self._asked is not None and number == signal.SIGINT
        self._asked = self._asked or number
        for attempt in self._attempts.values():
            _signal(attempt, signal.SIGKILL if again else signal.SIGTERM)

    def _reap(self) -> None:
        for name in [name for name, state in self.states.items() if state is RUNNING]:
            attempt, run = self._attempts.get(name), self._runs[name]
            code = None if attempt is None else attempt.process.poll()
            if attempt is None:  # a process of another sweep, or of this one before it was killed
                if not record.is_running(run):
                    self.states[name] = WAITING
            elif code is not None:
                del self._attempts[name]
                record.end(run)
            self.records[name] = record.read(run)
            if code is not None:
                self.states[name] = self._judge(run, code)

    def _judge(self, run: Run, code: int) -> str:
        if self._asked is not None:
            return DONE if code == 0 else STOPPED
        if code == AGAIN and self._restarts[run.name] < _MOST_RESTARTS:
            self._restarts[run.name] += 1
            return WAITING
        if code == 0 and self.records[run.name].state is State.DONE:
            return DONE
        progress.note(f"{run.name} failed (exit code {code}): {record.last_line(run)}")
        progress.note(f"  its log: {record.log_path(run)}")
        return FAILED

    def _start(self, elapsed: float) -> None:
        durations = Durations(self.records)
        for name in [name for name, state in self.states.items() if state is WAITING]:
            run = self._runs[name]
            if record.is_running(run):
                self.states[name] = RUNNING
            elif self.records[name].state is State.DONE:
                self.states[name] = DONE
            elif any(self.states[need.name] in (FAILED, BLOCKED) for need in run.needs):
                self.states[name] = BLOCKED
            elif (
                list(self.states.values()).count(RUNNING) < self._jobs
                and all(self.states[need.name] is DONE for need in run.needs)
                and self._budget.allows(elapsed, durations.left(run))
            ):
                self._launch(run)

    def _launch(self, run: Run) -> None:
        slot = min(set(range(self._jobs)) - {each.slot for each in self._attempts.values()})
        # One process is one run here, also inside an allocation of Slurm.
        environment = {"VLA_JAX_CLUSTER": "none"} | os.environ
        if not self._gpus:  # XLA's threads: processes share the cores instead of fighting for them
            environment.setdefault("NPROC", str(max(1, (os.cpu_count() or 1) // self._jobs)))
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot]
        with record.lock(run) as held:
            self.states[run.name] = RUNNING
            if held is None:  # another sweep was quicker
                return
            record.begin(run)
            command = [*self._program, *run.arguments]
            with open(record.log_path(run), "ab") as log:
                log.write(f"$ {shlex.join(command)}\n".encode())
                log.flush()
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    pass_fds=(held.fileno(),),  # the lock is the training's from here on
                    start_new_session=True,  # Ctrl-C is ours to hand on
                )
        self._attempts[run.name] = _Attempt(process, slot)

    def _name_the_rest(self) -> None:
        for name, state in self.states.items():
            if state is WAITING:
                self.states[name] = STOPPED if self._asked is not None else OVER_BUDGET


def _signal(attempt: _Attempt, number: int) -> None:
    # The process, not its group: what a training starts, it stops.
    if attempt.process.poll() is None:
        attempt.process.send_signal(number)
