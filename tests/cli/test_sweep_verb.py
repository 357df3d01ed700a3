import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from vla_jax.cli import train
from vla_jax.sweep import plan, record
from vla_jax.sweep import sweep as definitions

REPOSITORY = pathlib.Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "experiments/example/sweep.py"


@pytest.fixture
def sweep(vla_jax, tmp_path, monkeypatch):
    """Calls `vla-jax sweep` on the example, in a directory of its own."""
    monkeypatch.chdir(REPOSITORY)
    return lambda *more: vla_jax("sweep", EXAMPLE, f"--workdir={tmp_path / 'example'}", *more)


def test_a_dry_run_prints_every_command_and_writes_nothing(sweep, tmp_path):
    code, out, err = sweep("--dry-run", "--config.data_dir=my data")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line for line in lines if line.endswith(": new")][:2] == [
        "web-seed0: new", "learning_rate=0.0003-seed0: new"]  # fmt: skip
    commands = [line for line in lines if "vla-jax train" in line]
    assert len(commands) == 10
    assert all("'--config.data_dir=my data'" in line for line in commands)
    assert not (tmp_path / "example").exists()


def test_the_smoke_form_is_short(sweep):
    _, out, _ = sweep("--dry-run", "--smoke")
    assert out.count("vla-jax train") == 2
    assert out.count("--config.loop.steps=4") == 2


def test_there_is_no_table_without_a_result(sweep):
    code, out, _ = sweep("--table")
    assert (code, out) == (0, "no run is done yet: no table\n")


def test_a_table_is_made_from_what_is_done_without_running_anything(sweep, tmp_path):
    _, found = definitions.load(str(EXAMPLE))
    resolve = lambda arguments: train.parse([*arguments, "--workdir=x"])[0]  # noqa: E731
    for run in plan.plan(found, tmp_path / "example", resolve):
        run.workdir.mkdir(parents=True)
        record.begin(run)
        (run.workdir / "config.json").write_text(json.dumps(run.config))
        results = {
            "open_loop": {"token_accuracy": 0.1 * run.seed, "error/dx": 1, "error/dy": 3},
            "vqa": {"colour": {"rate": 0.5}},
            "train": {"seconds": 3600},
        }
        (run.workdir / "results.json").write_text(json.dumps(results))
    code, out, _ = sweep("--table", f"--out={tmp_path / 'out'}")
    assert code == 0
    assert "| learning_rate=0.001 | 3 | 0.1 ± 0.25 | 2 ± 0 | 0.5 ± 0 |" in out
    assert (tmp_path / "out/results.csv").read_text().splitlines()[0] == (
        "arm,seed,pretrained.path,loop.steps,optimizer.learning_rate,token accuracy,"
        '"error in x, y (m)",VQA colour,hours,made_from'
    )
    assert (tmp_path / "out/results.png").stat().st_size > 10_000
    # Elsewhere, with this table at hand, nothing is left to do.
    found = f"--known={tmp_path / 'out/results.csv'}"
    code, out, _ = sweep(found, f"--workdir={tmp_path / 'new/example'}", f"--out={tmp_path}")
    assert code == 0
    assert "learning_rate=0.003-seed2" in out.splitlines()[0]
    assert (tmp_path / "results.csv").read_bytes() == (tmp_path / "out/results.csv").read_bytes()
    assert not (tmp_path / "new").exists()
    # What is to be made anew is not taken from it.
    rerun = ("--table", "--rerun=learning_rate=0.003", f"--workdir={tmp_path / 'new/example'}")
    sweep(found, *rerun, f"--out={tmp_path / 'less'}")
    rows = (tmp_path / "less/results.csv").read_text().splitlines()
    assert len(rows) == 1 + 6
    assert not [row for row in rows if row.startswith("learning_rate=0.003")]
    # What is on disk is another run now, and is neither shown nor overwritten.
    code, _, err = sweep("--table", "--config.bins.count=64")
    assert code == 1
    assert "learning_rate=0.001-seed0 on disk is another run: config.bins.count: 256 -> 64" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config.loop.stepz=3",), "config.loop.stepz: no such field"),
        (("--rerun=learning_rate=0.002-seed0",), "The nearest is 'learning_rate=0.00"),
        (("--jobs=0",), "not a positive integer"),
        (("--budget=-1",), "not a non-negative number"),
        (("--engine=ray",), "--engine=ray"),
    ],
)
def test_mistakes_are_one_line(sweep, flags, message):
    code, _, err = sweep(*flags)
    assert code == 1
    assert message in err
    assert err.count("\n") == 1


def test_a_failed_run_is_named_with_its_last_words_and_its_log(sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    code, out, err = sweep("--smoke", "--config.pretrained.path=nowhere")
    assert code == 1
    assert "web-seed0 failed (exit code 1): vla-jax: " in out
    assert "nowhere" in out
    assert "learning_rate=0.001-seed0: blocked" in out
    assert f"{tmp_path}/prerequisites/web-seed0/train.log" in out
    assert "failed: web-seed0. Try them again with: vla-jax sweep" in err


def command(tmp_path):
    return [
        *(sys.executable, "-m", "vla_jax.cli.main", "sweep", str(EXAMPLE), "--smoke"),
        *(f"--workdir={tmp_path / 'example'}", f"--config.data_dir={tmp_path / 'data'}"),
        *("--config.loop.steps=40", "--config.tabletop.demonstrations.episodes=12"),
    ]


def trainings(run):
    """Numbers of the processes that train in a directory."""
    found = []
    for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"--workdir={run}/run" in file.read_text().split("\0"):
                found.append(int(file.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_a_sweep_that_was_killed_with_its_training_goes_on(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": ""}
    where = {"cwd": REPOSITORY, "env": environment}
    run = tmp_path / "example/runs/learning_rate=0.001-seed0"
    with subprocess.Popen(command(tmp_path), **where, start_new_session=True) as killed:
        end = time.monotonic() + 300
        while not any(path.name.isdigit() for path in run.glob("run/checkpoints/*")):
            assert killed.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        killed.kill()
    living = trainings(run)
    assert living  # the training outlives the sweep; it is killed, too
    for pid in living:
        os.kill(pid, signal.SIGKILL)
    again = subprocess.run(command(tmp_path), **where, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    log = (run / "train.log").read_text()
    assert sum(line.startswith("$ ") for line in log.splitlines()) == 2
    assert "resuming at step" in log
    lines = (run / "run/metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert max(steps) == 40
    assert "| learning_rate=0.001 | 1 |" in (tmp_path / "example/results.md").read_text()
    third = subprocess.run(command(tmp_path), **where, check=False, capture_output=True, text=True)
    assert third.returncode == 0
    assert (run / "train.log").read_text() == log  # nothing was run again
