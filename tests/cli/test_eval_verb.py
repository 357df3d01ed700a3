"""`vla-jax eval --env`, `--compare` and `report`, on a run that was never trained."""

import json
import shutil

import msgspec
import pytest

from vla_jax.eval import record
from vla_jax.experiment.workdir import Workdir

FEW = ("--env=tabletop", "--splits=seen,new_shape", "--episodes=3", "--film=0")


@pytest.fixture(scope="module")
def copy(run, tmp_path_factory):
    """A copy of the run that these tests may write into."""
    workdir = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(run, workdir)
    return workdir


@pytest.fixture
def evaluated(vla_jax, copy, tmp_path):
    """Evaluates into a folder of its own."""

    def call(*flags, name="out"):
        code, out, err = vla_jax("eval", copy, *FEW, *flags, f"--out={tmp_path / name}")
        assert code == 0, err
        return tmp_path / name, out

    return call


def test_an_environment_is_driven_and_the_result_lies_in_a_folder(vla_jax, copy):
    before = sorted(path.name for path in copy.iterdir())
    code, out, err = vla_jax("eval", copy, *FEW[:-1], "--film=2")
    assert code == 0, err
    folder = copy / "evaluation" / "tabletop"
    assert {path.name for path in folder.iterdir()} == {
        *("results.json", "episodes.jsonl", "episodes.gif", "episodes.webm", "report.html"),
    }
    assert sorted(path.name for path in copy.iterdir()) == sorted([*before, "evaluation"])
    results = json.loads((folder / "results.json").read_text())
    assert {name for name in results["success"] if "/" not in name} == {"seen", "new_shape"}
    assert results["success"]["seen"]["episodes"] == 3
    about = {"checkpoint": str(copy), "step": 7, "robot": "tabletop", "seed": 0, "execute": 1}
    assert results["evaluated"] == about
    assert results["environment"]["name"] == "tabletop"
    assert results["code"]["versions"]["jax"]
    assert len(record.read(folder / "episodes.jsonl")) == 6
    assert "new_shape" in out


def test_fixed_seeds_give_the_same_twice_and_with_any_number_of_slots(evaluated):
    first, _ = evaluated()
    files = [
        evaluated(*flags, name=f"again{k}")[0] / record.FILE
        for k, flags in enumerate([(), ("--slots=2",)])
    ]
    assert {file.read_text() for file in files} == {(first / record.FILE).read_text()}
    digests = {
        json.loads((path / "results.json").read_text())["environment"]["digest"]
        for path in (first, *(file.parent for file in files))
    }
    assert len(digests) == 1


def test_seeds_and_tasks_choose_other_episodes(evaluated):
    seeds, _ = evaluated("--seed=1", name="seeds")
    tasks, _ = evaluated("--tasks=two_stage", name="tasks")
    assert record.read(seeds / record.FILE)[0].seed == 2_000_000
    assert {r.options["task"] for r in record.read(tasks / record.FILE)} == {"two_stage"}


def test_an_exported_folder_drives_as_its_run_does(vla_jax, copy, evaluated, tmp_path):
    pytest.importorskip("torch")
    code, _, err = vla_jax("export", copy, tmp_path / "export", "--skip-parity")
    assert code == 0, err
    few = ("--splits=seen", "--episodes=1")  # PyTorch decides one by one
    ours, _ = evaluated(*few)
    code, _, err = vla_jax("eval", tmp_path / "export", *FEW, *few)
    assert code == 0, err
    theirs = tmp_path / "export" / "evaluation" / "tabletop"
    results = json.loads((theirs / "results.json").read_text())
    assert results["evaluated"]["format"] == "torch"
    starts = [[(r.key, r.start) for r in record.read(p / record.FILE)] for p in (ours, theirs)]
    assert starts[0] == starts[1]


def test_a_result_is_compared_with_another(vla_jax, evaluated, tmp_path):
    first, _ = evaluated(name="a")
    second = tmp_path / "b"
    shutil.copytree(first, second)
    better = [msgspec.structs.replace(r, success=True) for r in record.read(first / record.FILE)]
    record.write(second / record.FILE, better)
    out_file = tmp_path / "difference.json"
    code, out, err = vla_jax("eval", "--compare", first, second, f"--out={out_file}")
    assert code == 0, err
    assert "exact McNemar" in out
    found = json.loads(out_file.read_text())
    assert (found["A"], found["B"]) == ([str(first)], [str(second)])
    every = found["splits"][-1]
    failed = sum(not r.success for r in record.read(first / record.FILE))
    assert every["split"] == "all"
    assert (every["only_first"], every["only_second"]) == (0, failed)
    assert every["p"] == pytest.approx(min(1, 2 * 0.5**failed))
    files = (first / "results.json", second / record.FILE)
    code, again, _ = vla_jax("eval", "--compare", *files)
    assert (code, again.count("100.0%")) == (0, out.count("100.0%"))


def test_several_runs_are_compared_by_their_rates(vla_jax, evaluated):
    runs = [evaluated(name=name)[0] for name in "ab"]
    code, out, err = vla_jax("eval", "--compare", f"{runs[0]},{runs[1]}", f"{runs[1]},{runs[0]}")
    assert code == 0, err
    assert "Welch, a run is the unit" in out


def test_what_cannot_be_compared_is_told_in_one_line(refused, evaluated, run, tmp_path):
    first, _ = evaluated(name="a")
    other, _ = evaluated("--seed=1", name="b")
    line = refused("eval", "--compare", first, other)
    assert "did not play the same episodes" in line
    results = json.loads((first / "results.json").read_text())
    results["environment"]["image_size"] = 32
    third = tmp_path / "c"
    shutil.copytree(first, third)
    (third / "results.json").write_text(json.dumps(results))
    line = refused("eval", "--compare", first, third)
    assert "different environments: environment.image_size: 64 -> 32" in line
    assert "expected the episodes of an evaluation" in refused("eval", "--compare", first, run)
    assert "expected A B" in refused("eval", "--compare", first)
    (third / "results.json").unlink()
    assert "expected the environment" in refused("eval", "--compare", first, third)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--env=tabeltop"], "The nearest is 'tabletop'"),
        (["--env=tabletop", "--splits=sen"], "tabletop: no split 'sen'"),
        (["--env=tabletop", "--tasks=juggle"], "tabletop: no task 'juggle'"),
        (["--env=tabletop", "--robot=franka"], "of the dataset franka"),
        (["--env=tabletop", "--slots=0"], "slots"),
        (["--splits=seen"], "--splits: expected --env=NAME beside it"),
        (["elsewhere"], "expected one CHECKPOINT"),
    ],
)
def test_mistakes_are_told_in_one_line(refused, run, flags, message):
    assert message in refused("eval", run, *flags)


def test_a_report_is_written_of_an_unfinished_run(vla_jax, copy):
    code, out, err = vla_jax("report", copy)
    assert code == 0, err
    path = Workdir(copy).report
    assert str(path) in out
    assert "disagree" not in out  # of the evaluations that it has
    page = path.read_text()
    assert "config.loader.held_out" in page
    assert "not recorded" in page


def test_a_report_of_nothing_is_refused(refused, tmp_path):
    assert "expected a run" in refused("report", tmp_path / "none")
