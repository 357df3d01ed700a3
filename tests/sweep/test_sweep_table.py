import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from vla_jax.core.errors import UserError
from vla_jax.sweep import plot, record, significance, stock, table
from vla_jax.sweep.significance import Mean
from vla_jax.sweep.sweep import Arm, Needs

VALUES = {"a": (0.50, 0.52, 0.48), "b": (0.90, 0.94, 0.92), "c": (0.55, 0.45, 0.53)}


@pytest.fixture
def finished(make_sweep, make_plan):
    """A sweep whose runs are done, by files alone."""

    def finish(values=None, without=None, **fields):
        values = VALUES if values is None else values
        arms = tuple(Arm(name=name, set={"bins.count": 16 * 2**k}) for k, name in enumerate(values))
        sweep = make_sweep(**({"arms": arms, "seeds": (0, 1, 2), "reference": "a"} | fields))
        runs = make_plan(sweep)
        for run in runs:
            if run.seed >= len(values[run.arm]):
                continue
            run.workdir.mkdir(parents=True)
            (run.workdir / "config.json").write_text(json.dumps(run.config))
            value = values[run.arm][run.seed]
            results = {
                "success": {"seen": {"rate": value, "low": 0}, "seen/pick": {"rate": 1 - value}},
                "vqa": {"colour": {"rate": value / 2}} if run.arm != without else {},
                "train": {"seconds": 1800},
            }
            (run.workdir / "results.json").write_text(json.dumps(results))
        return table.gather(sweep, stock.take(runs))

    return finish


def test_means_and_intervals_are_those_of_scipy():
    values = VALUES["b"]
    mean = Mean.of(values)
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert mean.value == pytest.approx(0.92)
    assert (mean.value - mean.half, mean.value + mean.half) == pytest.approx((low, high))
    assert mean.half == pytest.approx(4.302653 * 0.02 / 3**0.5, rel=1e-6)  # from a printed table
    assert np.isnan(Mean.of([0.3]).half)
    assert Mean.of([0.2, 0.2, 0.2]).half == 0


def test_holm_steps_down():
    # 0.01 < 0.05/4, 0.016 < 0.05/3, 0.03 > 0.05/2: the last two fall, 0.04 < 0.05 notwithstanding.
    p_values = {"w": 0.03, "x": 0.01, "y": 0.04, "z": 0.016}
    assert significance.holm(p_values) == {"x", "z"}
    assert significance.holm({"x": 0.2}) == set()
    assert significance.holm({}) == set()


def test_what_differs_from_the_reference_is_marked(finished, tmp_path):
    found = finished()
    assert found.significant() == {("b", "seen")}
    table.write_markdown(found, tmp_path / "t.md")
    lines = (tmp_path / "t.md").read_text().splitlines()
    assert lines[:5] == [
        "| arm | seeds | seen |",
        "|---|--:|--:|",
        "| a | 3 | 0.5 ± 0.05 |",
        "| b | 3 | 0.92 ± 0.05 * |",
        "| c | 3 | 0.51 ± 0.13 |",
    ]
    assert "differs from a (Welch" in lines[-1]


def test_one_seed_has_neither_interval_nor_mark(finished, tmp_path):
    found = finished({name: values[:1] for name, values in VALUES.items()})
    assert found.significant() == set()
    table.write_markdown(found, tmp_path / "t.md")
    assert "| b | 1 | 0.9 |" in (tmp_path / "t.md").read_text()


def test_the_csv_has_a_row_per_finished_run(finished, tmp_path):
    measures = {"seen": "success/seen", "mean": ("success/seen/pick", "vqa/colour")}
    found = finished(VALUES | {"b": VALUES["b"][:2]}, measures=measures)
    table.write_csv(found, tmp_path / "t.csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [(row["arm"], row["seed"]) for row in rows] == [
        *(("a", str(seed)) for seed in range(3)), ("b", "0"), ("b", "1"),
        *(("c", str(seed)) for seed in range(3))]  # fmt: skip
    assert rows[3] == {
        "arm": "b", "seed": "0", "bins.count": "32", "seen": "0.9",
        "mean": f"{(0.1 + 0.45) / 2:.6g}", "hours": "0.500",
        "made_from": found.rows[3].run.made_from}  # fmt: skip


def test_a_measure_that_does_not_exist_is_told_the_nearest(finished):
    with pytest.raises(UserError, match=r"measure success/sene.*The nearest is 'success/seen'"):
        finished(measures={"x": "success/sene"})


def test_what_one_arm_does_not_measure_stays_empty(finished, tmp_path):
    found = finished(measures={"VQA": "vqa/colour", "seen": "success/seen"}, without="b")
    table.write_markdown(found, tmp_path / "t.md")
    assert "| b | 3 |  | 0.92 ± 0.05 * |" in (tmp_path / "t.md").read_text()
    table.write_csv(found, tmp_path / "t.csv")
    assert "b,0,32,,0.9,0.500," in (tmp_path / "t.csv").read_text()
    plot.draw(found, tmp_path / "t.png")


@pytest.mark.parametrize("axis", [None, "bins.count"])
def test_a_picture_is_drawn(finished, tmp_path, axis):
    measures = {"seen": "success/seen", "VQA": "vqa/colour", "pick": "success/seen/pick"}
    found = finished(measures=measures | {"more": "success/seen"}, axis=axis)
    plot.draw(found, tmp_path / "p.png")
    pixels = np.asarray(Image.open(tmp_path / "p.png").convert("L"))
    assert pixels.shape[1] > pixels.shape[0] > 300
    assert (pixels < 128).mean() > 0.01


def test_only_what_is_to_be_drawn_has_a_panel(finished, tmp_path):
    measures = {"seen": "success/seen", "VQA": "vqa/colour", "pick": "success/seen/pick"}
    whole = finished(measures=measures)
    less = dataclasses.replace(whole, sweep=dataclasses.replace(whole.sweep, drawn=("seen",)))
    widths = []
    for found in (whole, less):
        plot.draw(found, tmp_path / "p.png")
        with Image.open(tmp_path / "p.png") as picture:
            widths.append(picture.width)
    assert widths[0] == pytest.approx(3 * widths[1], abs=3)


def test_what_has_no_value_on_the_axis_is_a_level_line(finished, tmp_path):
    arms = (
        Arm(name="a", set={"bins.count": 16}),
        Arm(name="b", set={"bins.count": 32}),
        Arm(name="c", set={"loop.steps": 3}),
    )
    panel = plot.Figure().subplots()
    plot._along(panel, finished(arms=arms), "seen", "bins.count")
    assert [line.get_label() for line in panel.lines if line.get_linestyle() == ":"] == ["c"]


def test_an_arm_has_one_colour_in_all_panels(finished):
    arms = (
        Arm(name="a", set={"bins.count": 16}),
        Arm(name="b", set={"loop.steps": 3}),
        Arm(name="c", set={"loop.steps": 4}),
    )
    measures = {"VQA": "vqa/colour", "seen": "success/seen"}
    found = finished(arms=arms, measures=measures, without="b")
    colours = []
    for measure in measures:
        panel = plot.Figure().subplots()
        plot._along(panel, found, measure, "bins.count")
        colours.append({line.get_label(): line.get_color() for line in panel.lines})
    assert "b" not in colours[0]
    assert colours[0]["c"] == colours[1]["c"] != colours[1]["b"]


def test_the_front_is_of_the_arms_that_none_beats_in_both():
    points = [(0.1, 0.9), (0.5, 0.5), (0.4, 0.4), (0.9, 0.1)]
    front = [point for point in points if not plot._is_beaten(point, points)]
    assert front == [(0.1, 0.9), (0.5, 0.5), (0.9, 0.1)]


@pytest.mark.parametrize("values", [[0.2, 0.4], [0.5], [0.0, 0.0]])
def test_there_is_room_around_values_that_may_all_be_one(values):
    low, high = plot._around(values)
    assert low < min(values) <= max(values) < high


def test_one_measure_is_drawn_against_another(finished, tmp_path):
    measures = {"seen": "success/seen", "pick": "success/seen/pick"}
    plot.pareto(finished(measures=measures, pareto=("seen", "pick")), tmp_path / "p.png")
    assert (np.asarray(Image.open(tmp_path / "p.png").convert("L")) < 128).mean() > 0.005


def test_a_baseline_has_a_row_before_the_arms(make_sweep, make_plan):
    sweep = make_sweep(
        prerequisites=(Arm(name="web", set={"loop.steps": 3}, seeds=(0,)),),
        baselines=("web",),
        arms=(Arm(name="a", set={"pretrained.path": Needs("web")}),),
    )
    runs = make_plan(sweep)
    assert [run.measured for run in runs] == [True] * 3
    for number, run in enumerate(runs):
        run.workdir.mkdir(parents=True)
        (run.workdir / "config.json").write_text(json.dumps(run.config))
        results = {"success": {"seen": {"rate": number / 4}}, "train": {"seconds": 60}}
        (run.workdir / "results.json").write_text(json.dumps(results))
        record.begin(run)
        record.end(run)
    found = table.gather(sweep, stock.take(runs))
    assert [(row.run.name, row.values["seen"]) for row in found.rows] == [
        ("web-seed0", 0.0),
        ("a-seed0", 0.25),
        ("a-seed1", 0.5),
    ]
