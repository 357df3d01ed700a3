import pytest

from vla_jax.core.errors import UserError
from vla_jax.sweep.sweep import Arm, Needs


def test_every_arm_runs_with_every_seed_and_seeds_come_round_by_round(make_sweep, make_plan):
    runs = make_plan(make_sweep(set={"loop.steps": 5}))
    assert [run.name for run in runs] == ["a-seed0", "b-seed0", "a-seed1", "b-seed1"]
    assert [run.config["seed"] for run in runs] == [0, 0, 1, 1]
    assert [run.config["bins"]["count"] for run in runs] == [16, 32, 16, 32]
    assert {run.steps for run in runs} == {5}
    assert runs[1].arguments == (
        "--config=configs/tabletop.py:smoke",
        "--config.loop.steps=5",
        "--config.bins.count=32",
        "--config.seed=0",
        f"--workdir={runs[1].workdir}",
    )


def test_an_arm_may_have_its_own_config_and_seeds(make_sweep, make_plan):
    alone = Arm(name="alone", config="configs/tabletop.py:robot_only", seeds=(5,))
    runs = make_plan(make_sweep(arms=(alone, Arm(name="both"))))
    assert [run.name for run in runs] == ["both-seed0", "both-seed1", "alone-seed5"]
    assert runs[-1].config["mixture"]["robot_share"] == 1.0


@pytest.mark.parametrize(
    "values",
    [
        {"mixture.schedule": ((0, 0.2), (10, 0.8))},
        {"tabletop.questions.kinds": {"locate": 1.0}},
        {"data_dir": "with blank and 'quotes\""},
        {"loader.on_corrupt": "skip", "loader.max_skipped": 3},
        {"mixture.robot_share": 1},
    ],
)
def test_values_of_every_kind_go_through_flags(make_sweep, make_plan, values):
    make_plan(make_sweep(arms=(Arm(name="a", set=values),)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bins.cuont": 3}, "arm a: config.bins.cuont: no such field.*Did you mean"),
        ({"bins.count": 1}, "arm a: .*bins"),
        ({"bins.count": "many"}, "arm a: .*count"),
    ],
)
def test_a_wrong_value_names_its_arm(make_sweep, make_plan, values, message):
    with pytest.raises(UserError, match=message):
        make_plan(make_sweep(arms=(Arm(name="a", set=values),)))


def test_two_arms_that_are_the_same_run_are_refused(make_sweep, make_plan):
    twins = (Arm(name="a", set={"bins.count": 256}), Arm(name="b"))
    with pytest.raises(UserError, match="a-seed0 and b-seed0 are the same run"):
        make_plan(make_sweep(arms=twins))


def test_prerequisites_come_first_and_lie_where_other_sweeps_find_them(
    make_sweep, make_plan, tmp_path
):
    sweep = make_sweep(
        prerequisites=(
            Arm(name="base", set={"loop.steps": 2}, seeds=(0,)),
            Arm(name="web", set={"pretrained.path": Needs("base"), "loop.steps": 3}),
            Arm(name="unused", set={"loop.steps": 4}),
        ),
        arms=(Arm(name="a", set={"pretrained.path": Needs("web")}), Arm(name="b")),
    )
    runs = make_plan(sweep)
    names = [run.name for run in runs]
    assert names == ["base-seed0", "web-seed0", "web-seed1", "a-seed0", "b-seed0", "a-seed1",
                     "b-seed1"]  # fmt: skip
    by_name = dict(zip(names, runs, strict=True))
    assert by_name["base-seed0"].directory == tmp_path / "prerequisites" / "base-seed0"
    assert by_name["web-seed1"].needs == (by_name["base-seed0"],)  # the only one, for every seed
    assert by_name["a-seed1"].needs == (by_name["web-seed1"],)  # of the same seed
    assert by_name["a-seed1"].config["pretrained"]["path"] == str(by_name["web-seed1"].workdir)
    assert [run.measured for run in runs] == [False] * 3 + [True] * 4


def test_a_prerequisite_without_the_seed_is_refused(make_sweep, make_plan):
    sweep = make_sweep(
        prerequisites=(Arm(name="web", set={"loop.steps": 3}, seeds=(3, 4)),),
        arms=(Arm(name="a", set={"pretrained.path": Needs("web")}),),
    )
    with pytest.raises(UserError, match=r"arm a, seed 0: expected prerequisite web.*seeds 3, 4"):
        make_plan(sweep)


def test_a_flag_for_every_run_overrides_the_arms(make_sweep, make_plan):
    runs = make_plan(make_sweep(), "--config.loop.steps=3", "--config.data_dir=elsewhere")
    assert {(run.steps, run.config["data_dir"]) for run in runs} == {(3, "elsewhere")}
