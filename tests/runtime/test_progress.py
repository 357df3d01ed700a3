import contextlib
import io

import jax.numpy as jnp
import pytest

from vla_jax.runtime import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(capsys, clock):
    with progress.Progress("train", total=40, start=10) as bar:
        for step in range(30):
            clock[0] += 1.0
            bar.update(loss=jnp.float32(1 / (step + 1)), stage="warm")
    assert capsys.readouterr().out.splitlines() == [
        "train  25/40  1/s  0:15 left  loss 0.06667  stage warm",
        "train  40/40  1/s  0:00 left  loss 0.03333  stage warm",
    ]


def test_the_last_line_comes_once_and_soon_when_it_is_short(capsys, clock):
    with progress.Progress("index", total=2) as bar:
        clock[0] += 0.5
        bar.update(2)
    assert capsys.readouterr().out == "index  2/2  4/s  0:00 left\n"


def test_an_interrupted_bar_shows_where_it_stopped(capsys, clock):
    bar = progress.Progress("train", total=9000)
    with contextlib.suppress(KeyboardInterrupt), bar:
        clock[0] += 2.0
        bar.update(4)
        raise KeyboardInterrupt
    assert capsys.readouterr().out == "train  4/9000  2/s  1:14:58 left\n"


def test_a_terminal_gets_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.Progress("train", total=4) as bar:
        bar.update(4, loss=0.25)
        progress.note("a note [with] brackets")
    text = terminal.getvalue()
    assert "━" in text
    assert "4/4" in text
    assert "loss 0.25" in text
    assert "a note [with] brackets" in text


def test_a_long_note_stays_one_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    progress.note("word " * 60)
    assert capsys.readouterr().out.count("\n") == 1


def test_a_table_shows_every_value(capsys):
    progress.table("Scores [a]", ["task", "rate [%]"], [["reach", 12.3456789], ["push[/]", 7]])
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.strip() == "Scores [a]"
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert cells == [["reach", "12.35"], ["push[/]", "7"]]
    assert "rate [%]" in "".join(lines)
