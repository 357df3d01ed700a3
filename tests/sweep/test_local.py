import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from vla_jax.core.errors import UserError
from vla_jax.sweep import local, record, stock
from vla_jax.sweep.record import State
from vla_jax.sweep.sweep import Arm, Needs


def attempts(run):
    return (run.workdir / "attempts").read_text().splitlines()


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_every_run_is_done_with_a_log_of_its_own(make_sweep, make_plan, work):
    runs = make_plan(make_sweep())
    queue = work(runs)
    assert set(queue.states.values()) == {local.DONE}
    for run in runs:
        log = pathlib.Path(record.log_path(run)).read_text()
        assert log.startswith("$ ")
        assert f"attempt 0 of {run.name}" in log
        assert sum(f"of {other.name}" in log for other in runs) == 1


def test_what_is_done_is_not_run_again(make_sweep, make_plan, work):
    runs = make_plan(make_sweep())
    work(runs)
    queue = work(runs)
    assert set(queue.states.values()) == {local.DONE}
    assert all(len(attempts(run)) == 1 for run in runs)


def test_no_more_than_so_many_at_a_time(make_sweep, make_plan, work, trace):
    runs = make_plan(make_sweep(seeds=(0, 1, 2)))
    work(runs, jobs=2, **{run.name.replace("-", "_"): {"seconds": 0.4} for run in runs})
    running, most = 0, 0
    for line in trace():
        running += 1 if line.startswith("begin") else -1
        most = max(most, running)
    assert most == 2


def test_75_runs_again_and_other_codes_fail_without_losing_the_others(
    make_sweep, make_plan, work, capsys
):
    runs = make_plan(make_sweep())
    queue = work(runs, a_seed0={"codes": [75, 75, 0]}, b_seed0={"codes": [1]})
    assert queue.states == {
        "a-seed0": local.DONE,
        "b-seed0": local.FAILED,
        "a-seed1": local.DONE,
        "b-seed1": local.DONE,
    }
    by_name = {run.name: run for run in runs}
    assert len(attempts(by_name["a-seed0"])) == 3
    assert "b-seed0 failed (exit code 1): ends with 1" in capsys.readouterr().out
    assert set(work(runs).states.values()) == {local.DONE}  # the next command tries it again


def test_a_run_that_never_goes_on_is_given_up(make_sweep, make_plan, work, monkeypatch):
    monkeypatch.setattr(local, "_MOST_RESTARTS", 2)
    (run,) = make_plan(make_sweep(arms=(Arm(name="a"),), seeds=(0,)))
    assert work([run], a_seed0={"codes": [75]}).states == {"a-seed0": local.FAILED}
    assert len(attempts(run)) == 3


def needy(make_sweep, steps=2):
    return make_sweep(
        prerequisites=(Arm(name="web", set={"loop.steps": steps}, seeds=(0,)),),
        arms=(Arm(name="a", set={"pretrained.path": Needs("web")}), Arm(name="b")),
    )


def test_a_prerequisite_is_done_before_its_arms_begin(make_sweep, make_plan, work, trace, tmp_path):
    runs = make_plan(needy(make_sweep))
    queue = work(runs, jobs=4, web_seed0={"seconds": 0.5})
    assert set(queue.states.values()) == {local.DONE}
    end = (tmp_path / "prerequisites/web-seed0/run/results.json").stat().st_mtime
    begin = (tmp_path / "sweep/runs/a-seed0/run/attempts").stat().st_mtime
    assert end <= begin
    assert trace()[0].startswith("begin b-seed")  # which waits for nothing


def test_arms_of_a_failed_prerequisite_are_blocked(make_sweep, make_plan, work):
    queue = work(make_plan(needy(make_sweep)), web_seed0={"codes": [1]})
    assert queue.states == {
        "web-seed0": local.FAILED,
        "a-seed0": local.BLOCKED,
        "a-seed1": local.BLOCKED,
        "b-seed0": local.DONE,
        "b-seed1": local.DONE,
    }


def test_a_prerequisite_that_nobody_waits_for_may_be_deleted(make_sweep, make_plan, work, tmp_path):
    runs = make_plan(needy(make_sweep))
    work(runs)
    (tmp_path / "prerequisites" / "web-seed0").rename(tmp_path / "gone")
    assert "web-seed0" not in work(runs).states
    assert not (tmp_path / "prerequisites" / "web-seed0").exists()


def test_an_edited_sweep_is_refused_until_the_run_is_named(make_sweep, make_plan, work):
    arms = (Arm(name="a", set={"bins.count": 16}), Arm(name="b", set={"bins.count": 32}))
    work(make_plan(make_sweep(arms=arms)))
    edited = make_plan(make_sweep(arms=(arms[0], Arm(name="b", set={"bins.count": 64}))))
    with pytest.raises(
        UserError, match=r"b-seed0 on disk is another run: config.bins.count: 32 -> 64.*--rerun=b-"
    ):
        work(edited)
    stock.set_aside(edited, ["b"])
    work(edited)
    assert [len(attempts(run)) for run in edited] == [1, 1, 1, 1]
    for run in edited:
        old = run.directory.with_name(f"{run.name}.old1")
        assert old.exists() == (run.arm == "b")
    with pytest.raises(UserError, match="--rerun=c: expected a run or an arm"):
        stock.set_aside(edited, ["c"])


def test_a_run_made_from_another_prerequisite_is_stale(make_sweep, make_plan, work):
    work(make_plan(needy(make_sweep)))
    edited = make_plan(needy(make_sweep, steps=3))
    states = {found.run.name: found for found in stock.take(edited)}
    assert states["web-seed0"].state is State.STALE
    assert states["a-seed0"].state is State.STALE
    assert states["a-seed0"].why == "web-seed0: config.loop.steps: 2 -> 3"
    assert states["b-seed0"].state is State.DONE


def test_a_run_of_a_version_without_a_field_has_its_default(make_sweep, make_plan, work):
    runs = make_plan(make_sweep())
    work(runs)
    path = runs[0].workdir / "config.json"
    before = json.loads(path.read_text())
    del before["loader"]["augment"]
    path.write_text(json.dumps(before))
    assert {found.state for found in stock.take(runs)} == {State.DONE}


def test_a_run_may_go_on_with_other_threads(make_sweep, make_plan, work):
    work(make_plan(make_sweep()))
    runs = make_plan(make_sweep(), "--config.loader.threads=3")
    assert {found.state for found in stock.take(runs)} == {State.DONE}


def test_half_done_runs_go_on(make_sweep, make_plan, work):
    runs = make_plan(make_sweep())
    work(runs, a_seed1={"codes": [1]})
    assert [found.state for found in stock.take(runs)] == [
        State.DONE, State.DONE, State.BEGUN, State.DONE]  # fmt: skip
    work(runs)
    assert [len(attempts(run)) for run in runs] == [1, 1, 2, 1]


def test_a_run_that_does_not_fit_the_budget_is_not_started(make_sweep, make_plan, work):
    runs = make_plan(make_sweep(seeds=(0, 1, 2)))
    slow = {run.name.replace("-", "_"): {"seconds": 1.0} for run in runs}
    queue = work(runs, jobs=1, budget=2.6, **slow)
    over = list(queue.states.values()).count(local.OVER_BUDGET)
    assert over in (4, 5)  # a busy machine takes a second longer to start them
    assert set(queue.states.values()) == {local.DONE, local.OVER_BUDGET}
    assert len(list(filter(lambda run: run.directory.exists(), runs))) == 6 - over


def test_each_process_has_a_gpu_of_its_own(make_sweep, make_plan, work):
    runs = make_plan(make_sweep())
    work(runs, jobs=2, gpus=("3", "5"), a_seed0={"seconds": 0.5}, b_seed0={"seconds": 0.5})
    assert sorted(attempts(run)[0].split()[1] for run in runs[:2]) == ["3", "5"]


def test_ctrl_c_stops_the_trainings_which_save(make_sweep, make_plan, work):
    runs = make_plan(make_sweep())
    acts = {run.name.replace("-", "_"): {"seconds": 30} for run in runs}

    def interrupt():
        wait_for((runs[1].workdir / "attempts").exists)
        time.sleep(0.5)  # until the fake has its handler
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    queue = work(runs, jobs=2, **acts)
    thread.join()
    assert set(queue.states.values()) == {local.STOPPED}
    assert queue.stopped_by == signal.SIGINT
    assert "saved" in pathlib.Path(record.log_path(runs[0])).read_text()
    assert not record.is_running(runs[0])


DRIVER = """
import sys
sys.path.insert(0, {tests!r})
import conftest
from vla_jax.sweep import plan, stock
from vla_jax.sweep.budget import Budget
from vla_jax.sweep.local import Local
from vla_jax.sweep.sweep import Arm, Sweep
import pathlib
arms = (Arm(name="a", set={{"bins.count": 16}}), Arm(name="b", set={{"bins.count": 32}}))
sweep = Sweep(config="configs/tabletop.py:smoke", arms=arms, seeds=(0, 1), measures={{"x": "y"}})
runs = plan.plan(sweep, pathlib.Path({root!r}), conftest.resolve)
Local(runs, jobs=2, budget=Budget(None), program=conftest.PROGRAM).run(lambda *_: None)
"""


def test_after_a_kill_of_the_sweep_no_run_is_started_twice(
    make_sweep, make_plan, work, fake, tmp_path
):
    runs = make_plan(make_sweep())
    acts = {"a_seed0": {"seconds": 4.0}, "b_seed0": {"seconds": 0.0}, "a_seed1": {"seconds": 60.0}}
    fake(runs, **acts)
    tests = str(pathlib.Path(__file__).parent)
    code = textwrap.dedent(DRIVER.format(tests=tests, root=str(tmp_path / "sweep")))
    sweep = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_for((runs[2].workdir / "attempts").exists)
    finally:
        sweep.kill()
        sweep.wait()
    victim = int(attempts(runs[2])[0].split()[0])
    assert record.is_running(runs[0])  # it outlives the sweep, and is left in peace
    os.kill(victim, signal.SIGKILL)  # this one dies with it
    queue = work(runs)
    assert set(queue.states.values()) == {local.DONE}
    assert [len(attempts(run)) for run in runs] == [1, 1, 2, 1]
    assert queue.records["a-seed0"].seconds >= 0


def test_a_run_that_was_evaluated_before_its_end_is_not_done(make_sweep, make_plan, work):
    (run, *_) = make_plan(make_sweep())
    work([run])
    assert record.read(run).state is State.DONE
    for steps, state in ((run.steps - 1, State.BEGUN), (run.steps, State.DONE)):
        run.workdir.joinpath("results.json").write_text(json.dumps({"train": {"steps": steps}}))
        assert record.read(run).state is state


def test_a_run_that_saved_nothing_may_change(make_sweep, make_plan, work):
    before = make_plan(make_sweep(arms=(Arm(name="a", set={"bins.count": 16}),), seeds=(0,)))
    work(before, a_seed0={"codes": [1]})  # refused by something, as its log says
    (after,) = make_plan(make_sweep(arms=(Arm(name="a", set={"bins.count": 32}),), seeds=(0,)))
    assert record.read(after).state is State.NEW
    work(before)
    assert record.read(after).state is State.STALE
