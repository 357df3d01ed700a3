import errno
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from vla_jax.core.errors import UserError
from vla_jax.runtime import lock

HOLD = """
import sys, time
from vla_jax.runtime import lock
with lock.held(sys.argv[1], "workdir", "Wait for {holder}"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(directory):
    return lock.held(directory, f"workdir {directory}", "Wait until {holder} has ended")


def test_a_lock_of_a_process_that_was_killed_is_taken_over(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    holder = f"process {process.pid} on {socket.gethostname()}"
    with pytest.raises(UserError) as refused, hold(tmp_path):
        pass
    message = f"workdir {tmp_path} is in use by {holder}. Wait until {holder} has ended."
    assert str(refused.value) == message
    with process:  # closes its pipe, and waits
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / lock.FILE).read_text() == f"{holder}\n"  # but nobody holds it
    with hold(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / lock.FILE).read_text()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_removed_while_somebody_waits_for_it_is_not_held_twice(tmp_path):
    waiting = (tmp_path / lock.FILE).open("a+")
    with hold(tmp_path):
        pass  # removes the file that is open in `waiting`
    first = lock.take(tmp_path / lock.FILE)
    assert first is not None
    assert not os.path.samestat(os.fstat(waiting.fileno()), os.fstat(first.fileno()))
    assert lock.take(tmp_path / lock.FILE) is None
    first.close()
    waiting.close()


def test_many_processes_that_want_a_lock_have_it_one_after_the_other(tmp_path):
    work = """
import os, pathlib, sys, time
from vla_jax.core.errors import UserError
from vla_jax.runtime import lock
done, folder = 0, pathlib.Path(sys.argv[1])
while done < 20:
    try:
        with lock.held(folder, "x", ""):
            os.close(os.open(folder / "alone", os.O_CREAT | os.O_EXCL))
            os.unlink(folder / "alone")
            done += 1
    except UserError:
        time.sleep(0.0005)
"""
    command = [sys.executable, "-c", work, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", none)
    with hold(tmp_path):
        pass
    assert "knows no locks (No locks available)" in capsys.readouterr().out


def test_waiting_takes_no_time(tmp_path):
    with hold(tmp_path):
        began = time.monotonic()
        assert lock.take(tmp_path / lock.FILE) is None
    assert time.monotonic() - began < 0.5
