"""Sweeps on a cluster that only takes notes: what is submitted when, and never twice."""

import json
import pathlib
import shlex
import sys

import pytest
import yaml

from vla_jax.cli import sweep as command
from vla_jax.cli import train
from vla_jax.core.errors import UserError
from vla_jax.sweep import cluster, local
from vla_jax.sweep import plan as plan_lib
from vla_jax.sweep import sweep as sweep_lib

SWEEP = """
from vla_jax.sweep.sweep import Arm, Needs, Sweep

SWEEP = Sweep(
    config="configs/tabletop.py:smoke",
    prerequisites=(Arm(name="web", set={"loop.steps": 5}, seeds=(0,)),),
    arms=(Arm(name="plain"), Arm(name="tuned", set={"pretrained.path": Needs("web")})),
    seeds=(0, 1),
    measures={"seen": "success/seen"},
    reference="plain",
)
"""


@pytest.fixture
def sweep(cloud, monkeypatch, capsys):
    """Calls the command in front of the fake cloud; returns exit code and what it printed."""
    monkeypatch.setenv("PATH", str(cloud.binaries), prepend=":")
    monkeypatch.setenv("FAKE", str(cloud.path))
    monkeypatch.setenv("LOG_DIR", str(cloud.path / "logs"))
    monkeypatch.setenv("IMAGE", "an/image")
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.chdir(pathlib.Path(__file__).parents[2])
    file = cloud.path / "study.py"
    file.write_text(SWEEP)

    def call(*arguments):
        code = 0
        try:
            command.main([str(file), f"--workdir={cloud.path / 'out'}", *arguments])
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().out

    return call


def runs_of(cloud):
    name, definition = sweep_lib.load(str(cloud.path / "study.py"))
    assert name == "study"
    resolve = lambda arguments: train.parse([*arguments, "--workdir=x"])[0]  # noqa: E731
    return {run.name: run for run in plan_lib.plan(definition, cloud.path / "out", resolve)}


def finish(run, value=0.5):
    run.workdir.mkdir(parents=True, exist_ok=True)
    (run.workdir / "config.json").write_text(json.dumps(run.config))
    results = {"success": {"seen": {"rate": value}}, "train": {"seconds": 60}}
    (run.workdir / "results.json").write_text(json.dumps(results))


def tasks(cloud, number):
    (file,) = (cloud.path / "out/slurm").glob(f"sweep-study-*-{number}.tsv")
    return file, [line.split("\t") for line in file.read_text().splitlines()]


def test_slurm_gets_an_array_of_what_is_ready_and_the_rest_later(cloud, sweep):
    code, _ = sweep("--engine=slurm", "--jobs=2")
    assert code == 75  # the cluster is still at work
    (call,) = cloud.calls("sbatch")
    assert "--array=0-2%2" in call["arguments"]
    file, rows = tasks(cloud, 0)
    assert call["arguments"][-2:] == ["--tasks", str(file)]
    assert [name for name, _ in rows] == ["web-seed0", "plain-seed0", "plain-seed1"]
    runs = runs_of(cloud)
    assert shlex.split(rows[1][1]) == ["vla-jax", "train", *runs["plain-seed0"].arguments]

    # All are queued still: nothing new. Then one is done, one is gone without a result.
    cloud.tell(squeue="".join(f"{file.stem}|{task}\n" for task in range(3)))
    assert sweep("--engine=slurm")[0] == 75
    assert len(cloud.calls("sbatch")) == 1
    finish(runs["web-seed0"])
    cloud.tell(squeue=f"{file.stem}|1\n")
    assert sweep("--engine=slurm")[0] == 75
    _, rows = tasks(cloud, 1)
    assert [name for name, _ in rows] == ["tuned-seed0", "plain-seed1", "tuned-seed1"]

    for run in runs.values():
        finish(run)
    cloud.tell(squeue="")
    code, out = sweep("--engine=slurm")
    assert code == 0
    assert len(cloud.calls("sbatch")) == 2
    assert "| tuned | 2 | 0.5" in out
    assert (cloud.path / "out/results.csv").read_text().count("\n") == 5


def test_a_refused_submission_leaves_nothing_behind(cloud, sweep):
    cloud.tell(sbatch=1)
    with pytest.raises(UserError, match=r"submit.sh .*failed"):
        sweep("--engine=slurm")
    assert list((cloud.path / "out/slurm").glob("*.tsv")) == []


def test_kubernetes_gets_a_jobset_per_run(cloud, sweep):
    assert sweep("--engine=jobset")[0] == 75
    applied = [
        yaml.safe_load(call["input"])
        for call in cloud.calls("kubectl")
        if "apply" in call["arguments"]
    ]
    names = [found["metadata"]["name"] for found in applied]
    assert [name.rpartition("-")[0] for name in names] == [
        "vla-web-seed0", "vla-plain-seed0", "vla-plain-seed1"]  # fmt: skip
    container = applied[1]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    arguments = container["containers"][0]["command"]
    assert arguments[-len(runs_of(cloud)["plain-seed0"].arguments) :] == list(
        runs_of(cloud)["plain-seed0"].arguments
    )
    cloud.tell(jobsets="".join(f"{name} <none>\n" for name in names))
    before = len(cloud.calls("kubectl"))
    assert sweep("--engine=jobset")[0] == 75
    assert len(cloud.calls("kubectl")) == before + 1  # it only asked


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--engine=slurm", "--budget=3"), "--budget: expected --engine=local"),
        (("--engine=jobset", "--jobs=3"), "--jobs: expected a quota"),
        (("--gpus=0,1", "--jobs=3"), "--jobs: expected at most one per GPU"),
    ],
)
def test_flags_that_an_engine_does_not_have_are_refused(sweep, flags, message):
    with pytest.raises(UserError, match=message):
        sweep(*flags)


class Queue:
    """A cluster that runs everything at once, but for what fails."""

    def __init__(self, failing=()):
        self.failing, self.rounds, self.waiting = failing, [], []

    def queued(self, runs):
        return {run.name for run in self.waiting}

    def submit(self, runs):
        self.rounds.append([run.name for run in runs])
        self.waiting += runs

    def work(self, seconds):
        for run in self.waiting:
            if run.name not in self.failing:
                finish(run)
        self.waiting = []


@pytest.mark.parametrize("failing", [(), ("web-seed0",)])
def test_watching_goes_on_until_nothing_can_be_done(cloud, sweep, failing):
    runs = runs_of(cloud)
    queue = Queue(failing)
    states = cluster.drive(
        queue, list(runs.values()), watch=1.0, tell=lambda states: None, sleep=queue.work
    )
    assert queue.rounds[0] == ["web-seed0", "plain-seed0", "plain-seed1"]
    if failing:
        assert len(queue.rounds) == 1
        assert states["web-seed0"] == local.FAILED
        assert states["tuned-seed1"] == local.BLOCKED
        assert states["plain-seed1"] == local.DONE
    else:
        assert queue.rounds[1] == ["tuned-seed0", "tuned-seed1"]
        assert set(states.values()) == {local.DONE}
