"""The same run in one process and in several, cut short at any moment: the same numbers."""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import time

import jax
import pytest

from vla_jax.core import trees
from vla_jax.experiment.model import Model
from vla_jax.experiment.workdir import Workdir
from vla_jax.runtime import lifeline, mesh, metrics
from vla_jax.runtime.checkpoint import Checkpoints

CONFIG = pathlib.Path(__file__).with_name("tiny_run.py")
TIMEOUT = 240
# What is a function of configuration and step; the rest of a line is time and place.
NUMBERS = ("step", "loss", "gradient_norm", "accuracy", "share", "held_out", "success", "vqa")
SEED = 20261121


class Trainer:
    """Starts the tiny run in a directory of its own."""

    def __init__(self, start_job, folder, data):
        self._start_job, self._folder, self._data = start_job, folder, data

    def start(self, name, *flags, processes=2, devices=2):
        """Starts it, or lets it go on."""
        flags = (f"--config.data_dir={self._data}", f"--workdir={self._folder / name}", *flags)
        if processes > 1:
            flags = (*flags, "--heartbeat-timeout=20", "--start-timeout=90")
        arguments = ("train", f"--config={CONFIG}", *flags)
        return self._start_job(*arguments, processes=processes, devices=devices)

    def run(self, name, *flags, **how):
        """Runs it to its end; returns where it is."""
        results = self.start(name, *flags, **how).wait(TIMEOUT)
        assert all(code == 0 for code, _, _ in results), results
        return self.workdir(name)

    def workdir(self, name):
        return Workdir(self._folder / name)


@pytest.fixture(scope="module")
def trainer(start_job, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return Trainer(start_job, folder, folder / "data")


@pytest.fixture(scope="module")
def alone(trainer):
    """One process with four devices."""
    return trainer.run("alone", processes=1, devices=4)


@pytest.fixture(scope="module")
def together(trainer, alone):
    """Two processes with two devices each."""
    return trainer.run("together")


def lines_of(workdir):
    return [
        {name: value for name, value in row.items() if name.startswith(NUMBERS)}
        for row in metrics.read(workdir.path)
    ]


def arrays_of(workdir):
    """Everything in the last checkpoint, by name."""
    config, encoder = workdir.config(), workdir.load_encoder()
    first = mesh.make_mesh(mesh.MeshConfig(), jax.devices()[:1])
    abstract = Model(config, encoder.vocabulary, first).abstract_state().saved()
    with Checkpoints(workdir.checkpoints) as checkpoints:
        step, arrays, _ = checkpoints.restore(abstract)
    assert step == config.loop.steps
    return trees.named_leaves(jax.device_get(arrays))


def results_of(workdir):
    results = json.loads(workdir.results.read_text())
    times = ("train", "latency")
    return {name: value for name, value in results.items() if name not in times}


def assert_same_bits(found, expected):
    assert lines_of(found) == lines_of(expected)
    left, right = arrays_of(found), arrays_of(expected)
    assert left.keys() == right.keys()
    for name, leaf in right.items():
        assert left[name].dtype == leaf.dtype
        assert left[name].tobytes() == leaf.tobytes(), name
    assert results_of(found) == results_of(expected)


def assert_close(found, expected, tolerance=1e-5):
    """Losses and held-out losses; what a policy does may flip on a last bit."""
    left, right = lines_of(found), lines_of(expected)
    assert [row["step"] for row in left] == [row["step"] for row in right]
    for one, other in zip(left, right, strict=True):
        names = [name for name in other if "loss" in name]
        assert names
        for name in names:
            assert one[name] == pytest.approx(other[name], rel=tolerance), (other["step"], name)


@pytest.mark.slow
def test_two_processes_train_as_one_does(trainer, alone, together):
    assert_close(together, alone)
    assert results_of(together).keys() == results_of(alone).keys()
    assert [row["step"] for row in lines_of(alone)] == [*range(1, 7), 6, *range(7, 13)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "devices", "flags"),
    [
        (4, 1, ()),
        (2, 2, ("--config.mesh.data=1", "--config.mesh.fsdp=4")),
        (2, 2, ("--config.mesh.data=1", "--config.mesh.fsdp=2", "--config.mesh.tensor=2")),
        (4, 1, ("--config.mesh.data=2", "--config.mesh.tensor=2")),
    ],
)
def test_any_mesh_over_processes_trains_alike(trainer, alone, processes, devices, flags):
    name = f"mesh{processes}{len(flags)}{'tensor' in ''.join(flags)}"
    assert_close(trainer.run(name, *flags, processes=processes, devices=devices), alone)


def wait_for(condition, job, what):
    """Waits until it is so; returns False if the job has ended before."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if all(process.poll() is not None for process in job.processes):
            return False
        assert time.monotonic() < deadline, (what, job.texts(0))
        time.sleep(0.002)
    return True


def steps_of(workdir):
    try:
        return max((row["step"] for row in metrics.read(workdir.path)), default=0)
    except ValueError:
        return 0


def is_saving(workdir):
    return any("tmp" in path.name for path in workdir.checkpoints.glob("*"))


@pytest.mark.slow
def test_a_process_that_is_asked_to_stop_stops_all_after_the_same_step(trainer, together):
    workdir = trainer.workdir("stopped")
    job = trainer.start("stopped")
    assert wait_for(lambda: steps_of(workdir) >= 2, job, "steps")
    job.processes[1].send_signal(signal.SIGTERM)
    results = job.wait(TIMEOUT)
    assert len({code for code, _, _ in results}) == 1, results
    assert results[0][0] == lifeline.AGAIN, results
    stopped = [re.findall(r"stopped at step \d+ of 12, saved", err) for _, _, err in results]
    assert stopped[0] == stopped[1], results
    assert len(stopped[0]) == 1, results
    assert not workdir.results.exists()
    trainer.run("stopped")
    assert_same_bits(workdir, together)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_and_all_go_on(trainer, together, victim):
    name = f"killed{victim}"
    workdir = trainer.workdir(name)
    job = trainer.start(name)
    assert wait_for(lambda: steps_of(workdir) >= 5, job, "steps")
    job.kill(victim)
    start = time.monotonic()
    code, _, err = job.wait(TIMEOUT)[1 - victim]
    assert time.monotonic() - start < 20 + 10
    if code == lifeline.AGAIN:
        lines = [line for line in err.splitlines() if line.startswith("vla-jax: ")]
        assert len(lines) == 1, err
        assert lifeline.FIX in lines[0]
    else:
        assert victim == 0, err
        assert "leader task was preempted/died" in err  # JAX has been faster
    trainer.run(name)
    assert_same_bits(workdir, together)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_a_run_goes_on_in_another_number_of_processes(trainer, alone, together, devices):
    name = f"moved{devices}"
    workdir = trainer.workdir(name)
    job = trainer.start(name)
    assert wait_for(lambda: steps_of(workdir) >= 5, job, "steps")
    job.kill(1)
    job.wait(TIMEOUT)
    trainer.run(name, processes=1, devices=devices)
    assert_close(workdir, alone)


def run_with_kills(trainer, name, flags, *, kills, seed, processes):
    """Runs to the end, killed at random moments; returns how often a save was under way."""
    chance, workdir = random.Random(seed), trainer.workdir(name)
    killed = during_saves = 0
    while True:
        job = trainer.start(name, *flags, processes=processes, devices=2)
        before = steps_of(workdir)
        if killed == kills:
            results = job.wait(TIMEOUT)
            assert all(code == 0 for code, _, _ in results), results
            return during_saves
        kind = chance.choice(["at any time", "after some steps", "while saving", "while saving"])
        wanted = before + chance.randint(1, 3)
        start, delay = time.monotonic(), chance.uniform(0, 15)

        def is_due(kind=kind, wanted=wanted, start=start, delay=delay):
            if kind == "at any time":
                return time.monotonic() - start > delay
            return steps_of(workdir) >= wanted and (
                kind == "after some steps" or is_saving(workdir)
            )

        assert wait_for(is_due, job, kind), (killed, job.wait(TIMEOUT))
        time.sleep(chance.uniform(0, 0.03))
        job.kill(chance.randrange(processes))
        killed += 1
        during_saves += is_saving(workdir)
        job.wait(TIMEOUT)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(1, 20), (2, 6)])
def test_kills_at_random_moments_change_no_bit(trainer, processes, kills, record_property):
    flags = (
        "--config.loop.steps=100",
        "--config.checkpoint.every=1",
        "--config.loop.eval_every=40",
    )
    expected = trainer.run(f"straight{processes}", *flags, processes=processes)
    name = f"cut{processes}"
    in_saves = run_with_kills(trainer, name, flags, kills=kills, seed=SEED, processes=processes)
    assert in_saves >= kills // 4
    assert_same_bits(trainer.workdir(name), expected)
    record_property("kills in a save", in_saves)


# Ends the process at a change of the disk, before it is made; or lists them all.
DIE = """
import os, sys

_root, _listing, _moment = {root!r}, {listing!r}, {moment!r}
_count = 0

def _watch(event, arguments):
    global _count
    if event not in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
        return
    path = arguments[1] if event == "os.rename" else arguments[0]  # the name it gets
    if not isinstance(path, (str, bytes, os.PathLike)):
        return
    path = os.fsdecode(path)
    if not path.startswith(_root):
        return
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    if _count == _moment:
        os._exit(9)
    _count += 1
    if _listing:
        with open(_listing, "a") as file:  # lies elsewhere
            file.write(path.removeprefix(_root) + "\\n")

sys.addaudithook(_watch)
"""
SMALL = ("--config.loop.steps=4", "--config.loop.eval_every=2", "--config.checkpoint.every=2")
PHASES = {  # parts of paths, by what is done there
    "data": ("/data/",),
    "claim": ("lock", "origin.json", "config.json", "tokenizer.json", "policy.json"),
    "save": ("/checkpoints/",),
    "evaluation": ("results.json", "episodes", "curves", "report"),
}


def moments_by_phase(listing, kills):
    """Returns changes of the disk, by number, and what is done there; spread over each phase."""
    changes, chosen = listing.read_text().splitlines(), {}
    for phase, parts in PHASES.items():
        found = [k for k, path in enumerate(changes) if any(part in path for part in parts)]
        if phase == "save":
            found = found[: len(found) // 2]  # the first one
        assert len(found) > 3, (phase, changes)
        count = min(kills, len(found))
        chosen |= {found[i * len(found) // count]: phase for i in range(count)}
    return chosen


@pytest.mark.slow
def test_kills_at_the_changes_of_the_disk_change_no_bit(start_job, tmp_path, capsys):
    def start(name, moment=None, listing=None):
        root = tmp_path / name
        values = {"root": str(root), "listing": listing and str(listing), "moment": moment}
        flags = (*SMALL, f"--config.data_dir={root / 'data'}", f"--workdir={root / 'run'}")
        return start_job(
            *("train", f"--config={CONFIG}", *flags),
            before=lambda _: DIE.format(**values) if moment is not None or listing else "",
        )

    (code, *said) = start("straight", listing=tmp_path / "changes").wait(TIMEOUT)[0]
    assert code == 0, said
    expected = Workdir(tmp_path / "straight" / "run")
    chosen = moments_by_phase(tmp_path / "changes", int(os.environ.get("KILLS_PER_PHASE", "10")))
    for number, (moment, phase) in enumerate(chosen.items()):
        name = f"killed{moment}"
        (code, *said) = start(name, moment=moment).wait(TIMEOUT)[0]
        assert code == 9, (phase, moment, said)
        (code, *said) = start(name).wait(TIMEOUT)[0]
        assert code == 0, (phase, moment, said)
        assert_same_bits(Workdir(tmp_path / name / "run"), expected)
        shutil.rmtree(tmp_path / name)
        with capsys.disabled():
            print(f"{number + 1} of {len(chosen)}: {phase}, change {moment}")  # noqa: T201
