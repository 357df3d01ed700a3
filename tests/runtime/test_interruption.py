import http.server
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from vla_jax.core.errors import Preempted
from vla_jax.runtime import interruption
from vla_jax.runtime.interruption import Interruption


def send(number):
    os.kill(os.getpid(), number)


def test_nobody_asked():
    with Interruption() as asked:
        assert not asked.reached(1)


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGTERM, Preempted), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_is_noted_and_told_by_its_kind(number, kind, capsys):
    with Interruption() as asked:
        send(number)
        assert asked.reached(1)
        assert type(asked.stopped("saved")) is kind
    assert "stopping after this step" in capsys.readouterr().out


def test_a_second_ctrl_c_is_immediate():
    with Interruption() as asked:
        send(signal.SIGINT)
        assert asked.reached(1)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_the_signals_are_given_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_sigterm_outside_of_the_loop_ends_at_once():
    before = signal.getsignal(signal.SIGTERM)
    try:
        interruption.end_on_sigterm()
        with pytest.raises(Preempted, match="stopped by SIGTERM"):
            send(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("signals", "raised"),
    [((None, signal.SIGTERM), Preempted), ((signal.SIGINT, None), KeyboardInterrupt)],
)
def test_processes_that_train_together_stop_together_for_one_reason(monkeypatch, signals, raised):
    monkeypatch.setattr(interruption.peers, "stop_together", lambda asked, step: step == 7)
    monkeypatch.setattr(interruption.peers, "gather", lambda what, mine: list(signals))
    with Interruption() as asked:
        assert [asked.reached(step) for step in (6, 7)] == [False, True]
        assert type(asked.stopped("saved")) is raised


class Metadata(http.server.BaseHTTPRequestHandler):
    """A metadata server that refuses once, has nothing to tell twice, and then announces."""

    answers = ()
    asked = ()

    def do_GET(self):
        type(self).asked = (*self.asked, (self.path, self.headers["Metadata-Flavor"]))
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        self.send_response(200 if answer else 503)
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_):
        pass


def test_announced_maintenance_is_a_sigterm(monkeypatch, capsys):
    Metadata.answers, Metadata.asked = ("", "NONE", "NONE", "TERMINATE_ON_HOST_MAINTENANCE"), ()
    monkeypatch.setattr(interruption, "_SECONDS_BETWEEN_TRIES", 0.01)
    monkeypatch.setattr(interruption.jax, "default_backend", lambda: "tpu")
    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
        with Interruption() as asked:
            until = time.monotonic() + 20
            while not asked.reached(1) and time.monotonic() < until:
                time.sleep(0.01)
            assert isinstance(asked.stopped("saved"), Preempted)
        server.shutdown()
    assert len(Metadata.asked) == 4
    path, flavour = Metadata.asked[-1]
    assert path.startswith("/computeMetadata/v1/instance/maintenance-event?wait_for_change=true")
    assert flavour == "Google"
    assert "TERMINATE_ON_HOST_MAINTENANCE" in capsys.readouterr().out


def test_elsewhere_no_server_is_asked(monkeypatch):
    monkeypatch.setattr(interruption.threading, "Thread", None)  # not even a thread
    with Interruption() as asked:
        assert not asked.reached(1)


VERB = """
import os, signal, sys, types
from vla_jax.cli import main
from vla_jax.core.errors import Preempted

def verb(arguments):
    raise Preempted("stopped at step 3 of 10, saved")

sys.modules["vla_jax.cli.train"] = types.SimpleNamespace(main=verb)
main.main(["train"])
"""


def test_launchers_know_an_eviction_by_its_exit_code():
    run = subprocess.run(
        [sys.executable, "-c", VERB], check=False, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 75
    assert run.stderr == "vla-jax: stopped at step 3 of 10, saved\n"
