"""What a process that is not like the others is told, without other processes."""

import errno
import pathlib

import pytest

from vla_jax.experiment import dist_check
from vla_jax.runtime import collectives, peers


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(collectives, "speeds", list)


def test_a_workdir_that_cannot_be_written_is_told(monkeypatch, tmp_path):
    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(pathlib.Path, "touch", refuse)
    (problem,) = dist_check.examine(None, tmp_path / "runs" / "x").problems
    assert problem.startswith("process 0 on ")
    assert problem.endswith(f"workdir {tmp_path}/runs/x: {tmp_path}: Read-only file system")


def test_what_is_in_the_way_is_not_written_to(tmp_path):
    (tmp_path / "file").write_text("mine")
    assert dist_check.examine(None, tmp_path / "file" / "x").problems == []
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_wrong_sum_and_a_wrong_clock_are_told(monkeypatch):
    monkeypatch.setattr(collectives, "add_up", lambda: False)
    monkeypatch.setattr(dist_check, "clock_offsets", lambda: [-90.0])
    report = dist_check.examine(None, None)
    assert [problem.partition(": ")[2] for problem in report.problems] == [
        "a sum over all devices is wrong",
        "its clock is -90.0 s off process 0's",
    ]
    assert report.rows[0][3:5] == ("wrong", "-90.000")


def test_a_clock_that_is_ahead_is_measured(monkeypatch):
    def gather(what, readings):
        return [readings, [reading + 2.5 for reading in readings]]

    monkeypatch.setattr(peers, "gather", gather)
    assert dist_check.clock_offsets() == [0, pytest.approx(2.5)]


@pytest.mark.parametrize(
    ("devices", "odd"),
    [
        (["4 H100", "4 H100", "3 H100"], {2: ["3 H100, where most have 4 H100"]}),
        (["4 H100", "8 H100"], {1: ["8 H100, where most have 4 H100"]}),
        (["2 cpu"] * 4, {}),
    ],
)
def test_who_differs_from_most_is_named(devices, odd):
    everyone = [{"devices": text, "datasets": {}} for text in devices]
    found = {n: list(dist_check._odd(n, everyone)) for n in range(len(everyone))}
    assert {n: lines for n, lines in found.items() if lines} == odd


def test_a_dataset_that_nobody_has_is_told():
    everyone = [{"devices": "", "datasets": {"a": "absent", "b": "to be generated"}}] * 2
    assert list(dist_check._odd(1, everyone)) == ["dataset a: absent"]
