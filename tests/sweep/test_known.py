import csv
import dataclasses
import json

import pytest

from vla_jax.core.errors import UserError
from vla_jax.sweep import known, record, stock, table
from vla_jax.sweep.sweep import Arm, Needs

WEB = Arm(name="web", set={"loop.steps": 3}, seeds=(0,))
FROM_WEB = {"pretrained.path": Needs("web")}


@pytest.fixture
def sweep(make_sweep):
    arms = tuple(Arm(name=f"n{n}", set={**FROM_WEB, "bins.count": n}) for n in (16, 32))
    return make_sweep(prerequisites=(WEB,), arms=arms)


@pytest.fixture
def finish():
    """Leaves the files of finished runs, which found something else each."""

    def do(runs):
        for number, run in enumerate(runs):
            run.workdir.mkdir(parents=True)
            (run.workdir / "config.json").write_text(json.dumps(run.config))
            results = {"success": {"seen": {"rate": number / 8}}, "train": {"seconds": 360}}
            (run.workdir / "results.json").write_text(json.dumps(results))
            record.begin(run)
            record.end(run)

    return do


@pytest.fixture
def written(sweep, make_plan, finish, tmp_path):
    """The results.csv of the sweep, made elsewhere."""
    runs = make_plan(sweep)
    finish(runs)
    path = tmp_path / "elsewhere.csv"
    table.write_csv(table.gather(sweep, stock.take(runs)), path)
    return path


def elsewhere(runs, tmp_path):
    """The same runs in directories that do not exist."""
    return [dataclasses.replace(run, directory=tmp_path / "new" / run.name) for run in runs]


def test_what_a_run_is_made_from_does_not_depend_on_sweep_name_or_directory(
    sweep, make_sweep, make_plan, tmp_path
):
    first = {run.name: run.made_from for run in make_plan(sweep)}
    assert len(set(first.values())) == 5  # the web run and two arms of two seeds
    other = make_sweep(
        prerequisites=(dataclasses.replace(WEB, name="questions"),),
        arms=(
            Arm(name="x", set={"pretrained.path": Needs("questions"), "bins.count": 16}),
            Arm(name="y", set={"bins.count": 16}),
            Arm(name="z", set={"pretrained.path": Needs("questions"), "loader.threads": 1}),
        ),
        seeds=(1,),
    )
    second = {run.name: run.made_from for run in make_plan(other)}
    assert second["questions-seed0"] == first["web-seed0"]
    assert second["x-seed1"] == first["n16-seed1"]
    assert second["y-seed1"] not in first.values()  # from nothing
    assert second["z-seed1"] not in first.values()  # 256 bins
    more = dataclasses.replace(WEB, set={"loop.steps": 4})
    changed = make_plan(dataclasses.replace(sweep, prerequisites=(more,)))
    assert not {run.made_from for run in changed} & set(first.values())
    threads = make_plan(dataclasses.replace(sweep, set={"loader.threads": 1}))
    assert {run.made_from for run in threads} == set(first.values())


def test_known_runs_are_in_the_table_and_not_run(sweep, make_plan, written, tmp_path):
    lines = written.read_text().splitlines()
    written.write_text("\n".join(lines[:3]) + "\n")  # both seeds of n16
    runs = make_plan(sweep)
    rows = known.rows([written], sweep, runs)
    assert [row.run.name for row in rows] == ["n16-seed0", "n16-seed1"]
    names = [row.run.name for row in rows]
    nowhere = elsewhere(runs, tmp_path)
    left = [found.run.name for found in stock.take(nowhere, names)]
    assert left == ["web-seed0", "n32-seed0", "n32-seed1"]
    found = table.gather(sweep, stock.take(nowhere, names), rows)
    assert found.values("n16", "seen") == [1 / 8, 3 / 8]
    assert found.arms == ["n16"]


def test_where_everything_is_known_nothing_is_run_and_the_table_is_the_same(
    sweep, make_plan, written, tmp_path
):
    runs = elsewhere(make_plan(sweep), tmp_path)
    rows = known.rows([written], sweep, runs)
    names = [row.run.name for row in rows]
    assert stock.take(runs, names) == []
    table.write_csv(table.gather(sweep, [], rows), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == written.read_bytes()


def test_a_run_that_was_changed_is_not_known(sweep, make_plan, written):
    changed = make_plan(dataclasses.replace(sweep, set={"loop.steps": 7}))
    assert known.rows([written], sweep, changed) == []


def test_files_that_are_no_tables_are_named(sweep, make_plan, written, tmp_path):
    runs = make_plan(sweep)
    with pytest.raises(UserError, match=r"nowhere\.csv: expected a results\.csv.*no such file"):
        known.rows([tmp_path / "nowhere.csv"], sweep, runs)
    other = tmp_path / "other.csv"
    other.write_text("arm,seed\na,0\n")
    with pytest.raises(UserError, match="no column made_from"):
        known.rows([other], sweep, runs)
    measures = {"seen": "success/seen", "more": "success/seen"}
    with pytest.raises(UserError, match=r"as it has n16-seed0.*no column more"):
        known.rows([written], dataclasses.replace(sweep, measures=measures), runs)
    with written.open() as file:
        lines = list(csv.reader(file))
    lines[1][lines[0].index("seen")] = "much"
    other.write_text("\n".join(",".join(line) for line in lines))
    with pytest.raises(UserError, match=r"the row of n16-seed0: .*much"):
        known.rows([other], sweep, runs)
