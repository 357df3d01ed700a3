"""Sweeps over a training that learns nothing and takes no time."""

import json
import os
import pathlib
import sys

import pytest

from vla_jax.cli import train
from vla_jax.sweep import plan as plan_lib
from vla_jax.sweep import stock
from vla_jax.sweep.budget import Budget
from vla_jax.sweep.local import Local
from vla_jax.sweep.sweep import Arm, Sweep

REPOSITORY = pathlib.Path(__file__).parents[2]
PROGRAM = (sys.executable, os.fspath(pathlib.Path(__file__).with_name("fake_train.py")))


def resolve(arguments):
    return train.parse([*arguments, "--workdir=any"])[0]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    """Config files are named from its root."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "argv", ["pytest"])  # the parser of flags changes it


@pytest.fixture
def make_sweep():
    """A sweep of two arms; every field may be replaced."""

    def make(**fields):
        fields = {
            "config": "configs/tabletop.py:smoke",
            "arms": (Arm(name="a", set={"bins.count": 16}), Arm(name="b", set={"bins.count": 32})),
            "seeds": (0, 1),
            "measures": {"seen": "success/seen"},
        } | fields
        return Sweep(**fields)

    return make


@pytest.fixture
def make_plan(tmp_path):
    """Expands a sweep below a directory of its own."""

    def make(sweep, *extra):
        return plan_lib.plan(sweep, tmp_path / "sweep", resolve, extra)

    return make


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Tells the fake training what to do; returns its environment variable."""

    def tell(runs, **acts):
        path = tmp_path / "fake.json"
        configs = {str(run.workdir): run.config for run in runs}
        acts = {name.replace("_", "-"): act for name, act in acts.items()}
        path.write_text(json.dumps({"configs": configs, "acts": acts}))
        monkeypatch.setenv("FAKE_TRAIN", str(path))
        return path

    return tell


@pytest.fixture
def work(fake):
    """Runs a plan with the fake training, as the command does; returns the queue."""

    def run(runs, *, jobs=2, budget=None, gpus=(), show=lambda *_: None, **acts):
        fake(runs, **acts)
        records = stock.take(runs)
        stock.refuse_stale(records)
        chosen = [found.run for found in records]
        queue = Local(chosen, jobs=jobs, budget=Budget(budget), gpus=gpus, program=PROGRAM)
        queue.run(show)
        return queue

    return run


@pytest.fixture
def trace(tmp_path):
    """Lists what began and ended, in order."""
    return lambda folder="sweep/runs": (tmp_path / folder / "trace").read_text().splitlines()
