"""Every committed sweep runs from its first command to its table, in its short form."""

import csv
import os
import pathlib
import subprocess
import sys

import pytest

from vla_jax.cli import sweep as sweep_verb
from vla_jax.sweep import plan
from vla_jax.sweep import sweep as sweep_lib

REPOSITORY = pathlib.Path(__file__).parents[1]
SWEEPS = sorted(path.parent.name for path in (REPOSITORY / "experiments").glob("*/sweep.py"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One directory of generated datasets for all."""
    return tmp_path_factory.mktemp("data")


TABLES = [name for name in SWEEPS if (REPOSITORY / "experiments" / name / "results.csv").exists()]


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_a_committed_table_is_one_of_todays_runs(name, monkeypatch, tmp_path):
    """A field that is new, renamed or gone would have all of them trained again."""
    monkeypatch.chdir(REPOSITORY)
    _, definition = sweep_lib.load(f"experiments/{name}/sweep.py")
    runs = plan.plan(definition, tmp_path, sweep_verb._resolve, [])
    with open(f"experiments/{name}/results.csv") as file:
        known = {f"{row['arm']} {row['seed']}": row["made_from"] for row in csv.DictReader(file)}
    today = {f"{run.arm} {run.seed}": run.made_from for run in runs if run.measured}
    assert today == known


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("flags", [(), ("--smoke",)])
def test_every_run_of_a_study_has_a_configuration(name, flags, tmp_path, capsys):
    sweep_verb.main([f"experiments/{name}/sweep.py", "--dry-run", f"--workdir={tmp_path}", *flags])
    study = sweep_lib.load(f"experiments/{name}/sweep.py")[1]
    study = study.shortened() if flags else study
    said = capsys.readouterr().out
    assert all(arm.name in said for arm in study.arms)


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=() if x == "cofinetuning" else pytest.mark.slow) for x in SWEEPS],
)
def test_the_short_form_of_a_study_gives_a_table(name, data, tmp_path, quick_compile):
    command = [sys.executable, "-m", "vla_jax.cli.main", "sweep", f"experiments/{name}/sweep.py"]
    flags = ["--smoke", f"--workdir={tmp_path / name}", f"--config.data_dir={data}"]
    environment = os.environ | {"XLA_FLAGS": quick_compile}
    subprocess.run([*command, *flags], check=True, cwd=REPOSITORY, env=environment, timeout=300)
    short = sweep_lib.load(f"experiments/{name}/sweep.py")[1].shortened()
    with open(tmp_path / name / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["arm"] for row in rows} == {*short.baselines, *(arm.name for arm in short.arms)}
    for row in rows:
        for measure in short.measures:
            assert float(row[measure]) >= 0
    assert (tmp_path / name / "results.png").stat().st_size > 10_000
    assert (tmp_path / name / "pareto.png").exists() == (short.pareto is not None)
