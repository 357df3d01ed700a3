import dataclasses
import math

import pytest

from vla_jax.core.errors import UserError
from vla_jax.sweep import arms, sweep
from vla_jax.sweep.sweep import Arm, Needs, Smoke


def test_a_grid_is_every_combination_in_order():
    found = arms.grid(
        {"bins.count": (16, 32), "mixture.schedule": {"flat": (), "up": ((0, 0.2), (9, 0.8))}},
        also={"loop.steps": 5},
    )
    assert [arm.name for arm in found] == [
        "count=16,schedule=flat",
        "count=16,schedule=up",
        "count=32,schedule=flat",
        "count=32,schedule=up",
    ]
    assert found[1].set == {
        "loop.steps": 5,
        "bins.count": 16,
        "mixture.schedule": ((0, 0.2), (9, 0.8)),
    }


def test_random_arms_are_the_same_for_the_same_seed_and_more_begin_with_the_fewer():
    fields = {
        "optimizer.learning_rate": arms.Uniform(1e-4, 1e-2, log=True),
        "loader.batch_size": (8, 16),
        "mixture.robot_share": arms.Uniform(0.2, 0.8),
    }
    many = arms.random(200, fields, seed=3)
    assert arms.random(20, fields, seed=3) == many[:20]
    assert arms.random(20, fields, seed=4) != many[:20]
    rates = [arm.set["optimizer.learning_rate"] for arm in many]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert 70 < sum(rate < 1e-3 for rate in rates) < 130  # half of them, in the logarithm
    shares = [arm.set["mixture.robot_share"] for arm in many]
    assert abs(sum(shares) / 200 - 0.5) < 0.05
    assert {arm.set["loader.batch_size"] for arm in many} == {8, 16}
    assert all(float(f"{rate:.3g}") == rate and math.isfinite(rate) for rate in rates)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"arms": ()}, "arms of the sweep: expected at least one"),
        ({"arms": (Arm(name="a b"),)}, "expected letters, digits"),
        ({"arms": (Arm(name="../a"),)}, "expected letters, digits"),
        ({"arms": (Arm(name="a"), Arm(name="a"))}, "two arms are called a"),
        ({"seeds": (0, 0)}, "expected some, each once"),
        ({"axis": "loop.steps"}, "axis of the sweep: expected a field that arms set to numbers"),
        ({"reference": "aa"}, "The nearest is 'a'"),
        ({"smoke": Smoke(arms=("c",))}, "expected a, b, found c"),
        ({"arms": (Arm(name="a", set={"data_dir": Needs("x")}),)}, "prerequisite of a"),
        ({"drawn": ("sene",)}, "drawn in the sweep: measure: expected seen.*nearest is 'seen'"),
        (
            {"prerequisites": (Arm(name="x", set={"data_dir": Needs("x")}),)},
            "prerequisite of x: expected none",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(make_sweep, fields, message):
    with pytest.raises(UserError, match=message):
        make_sweep(**fields)


def test_the_smoke_form_wins_over_the_arms(make_sweep):
    whole = make_sweep(
        reference="b",
        smoke=Smoke(set={"bins.count": 8}, arms=("a",), seeds=(7,), config="c.py:smoke"),
        prerequisites=(Arm(name="web", config="web.py", seeds=(3, 4)),),
    )
    short = whole.shortened()
    assert [arm.name for arm in short.arms] == ["a"]
    assert short.arms[0].set == {"bins.count": 8}
    assert (short.config, short.arms[0].config) == ("c.py:smoke", "c.py:smoke")
    assert (short.seeds, short.prerequisites[0].seeds) == ((7,), (7,))
    assert short.reference is None  # it is not among them
    assert dataclasses.replace(whole, smoke=Smoke()).shortened().arms == whole.arms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SWEEP = 3", "expected SWEEP = Sweep"),
        ("x = ", "SyntaxError"),
        (
            "from vla_jax.sweep import sweep\nsweep.Sweep(config='c', arms=(), measures={})",
            "s.py: arms of the sweep: expected at least one",
        ),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(tmp_path, text, message):
    (tmp_path / "s.py").write_text(text)
    with pytest.raises(UserError, match=message):
        sweep.load(str(tmp_path / "s.py"))
    with pytest.raises(UserError, match="no such file"):
        sweep.load(str(tmp_path / "absent.py"))


def test_a_sweep_is_called_as_its_folder():
    name, found = sweep.load("experiments/example/sweep.py")
    assert name == "example"
    assert len(found.arms) == 3
