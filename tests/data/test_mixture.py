import types

import pytest

from vla_jax.core import config as config_lib
from vla_jax.core.errors import UserError
from vla_jax.data import mixture
from vla_jax.data.mixture import MixtureConfig, RobotConfig
from vla_jax.data.mixtures import MIXTURES
from vla_jax.data.web.table import WebConfig

WEB = {"vqa": WebConfig()}


class Sized(types.SimpleNamespace):
    def __len__(self):
        return self.size


def sources(**sizes):
    return [
        Sized(name=name, size=size, kind="web" if name == "vqa" else "robot")
        for name, size in sizes.items()
    ]


def inline(**weights):
    robots = {name: RobotConfig(weight=weight) for name, weight in weights.items()}
    return MixtureConfig(name=None, robots=robots, web=WEB)


def test_the_default_is_the_tabletop_and_its_questions():
    assert list(mixture.resolve(MixtureConfig())) == ["tabletop"]
    assert MixtureConfig().web["tabletop_questions"].layout == "tabletop"
    assert MixtureConfig().points == ((0, 0.5),)


def test_a_named_mixture_brings_its_weights():
    name = "oxe_magic_soup_plus_plus"
    found = mixture.resolve(MixtureConfig(name=name))
    assert {dataset: robot.weight for dataset, robot in found.items()} == MIXTURES[name]
    assert list(found) == sorted(found)


def test_inline_entries_replace_and_add():
    config = MixtureConfig(
        name="bridge", robots={"bridge_orig": RobotConfig(weight=3.0), "mine": RobotConfig()}
    )
    found = mixture.resolve(config)
    assert (found["bridge_orig"].weight, found["mine"].weight) == (3.0, 1.0)
    assert list(mixture.resolve(inline(b=1.0, a=2.0))) == ["a", "b"]


def test_relative_weights_multiply_sizes_and_absolute_ones_stand_for_themselves():
    assert mixture.shares((1.0, 2.0), (300, 50), "relative") == pytest.approx((0.75, 0.25))
    assert mixture.shares((1.0, 2.0), (300, 50), "absolute") == pytest.approx((1 / 3, 2 / 3))


@pytest.mark.parametrize(
    ("weights", "expected"), [("relative", [450, 50, 500]), ("absolute", [250, 250, 500])]
)
def test_the_plan_draws_by_the_weights(weights, expected):
    config = MixtureConfig(
        name=None, robots={"a": RobotConfig(), "b": RobotConfig()}, web=WEB, weights=weights
    )
    plan = mixture.make_plan(config, sources(a=900, b=100, vqa=7), 10)
    assert plan.drawn(100).tolist() == expected


def test_a_schedule_overrides_the_share():
    config = MixtureConfig(robot_share=0.9, schedule=((0, 1.0), (100, 0.0)))
    plan = mixture.make_plan(
        config,
        [
            Sized(name="tabletop", size=9, kind="robot"),
            Sized(name="tabletop_questions", size=9, kind="web"),
        ],
        10,
    )
    assert plan.drawn(100).tolist() == [505, 495]


def test_a_mixture_goes_through_the_flag_surface_and_back():
    tree = config_lib.to_config_dict(MixtureConfig())
    tree.name = None
    tree.robots = {"mine": {"weight": 2.0, "adapter": "lab.robots:ARM"}}
    tree.web = {"vqa": {"layout": "vqav2", "dir": "somewhere"}}
    tree.schedule = ((0, 1.0), (1000, 0.5))
    built = config_lib.build(MixtureConfig, tree)
    assert built.robots == {"mine": RobotConfig(weight=2.0, adapter="lab.robots:ARM")}
    assert built.web == {"vqa": WebConfig(layout="vqav2", dir="somewhere")}
    assert built.schedule == ((0, 1.0), (1000, 0.5))
    assert config_lib.from_json(MixtureConfig, config_lib.to_json(built)) == built
    # A flag may set what a default left open.
    tree = config_lib.to_config_dict(MixtureConfig())
    tree.web.tabletop_questions.dir = "elsewhere"
    assert config_lib.build(MixtureConfig, tree).web["tabletop_questions"].dir == "elsewhere"


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_that_is_not_positive_is_refused_by_its_path(weight):
    tree = {"name": None, "robots": {"a": {"weight": weight}}}
    with pytest.raises(UserError, match=r"config\.robots\.a\.weight: expected 0 < x .*leave a"):
        config_lib.build(MixtureConfig, tree)
    with pytest.raises(UserError, match=r"WebConfig\.weight: expected 0 < x"):
        WebConfig(weight=weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"robot_share": 1.5}, r"MixtureConfig\.robot_share: expected 0\.\.1"),
        ({"schedule": ((0, 0.5), (10, 1.1))}, r"\.schedule\[1\]\[1\]: expected 0\.\.1, found 1\.1"),
        ({"schedule": ((10, 0.5), (10, 0.6))}, r"schedule: expected rising steps"),
        ({"name": "oxe_magic_sop"}, r"no mixture 'oxe_magic_sop'.*nearest is 'oxe_magic_soup'"),
        ({"name": None}, r"config\.mixture: no robot dataset"),
        ({"web": {}}, r"config\.mixture\.web: no question set"),
        ({"web": {"tabletop": WebConfig()}}, r"'tabletop' is a robot dataset and a question set"),
    ],
)
def test_what_does_not_make_a_mixture_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        MixtureConfig(**changes)


def test_a_stream_that_no_batch_wants_may_have_no_dataset():
    assert not MixtureConfig(robot_share=1.0, web={}).web
    assert not mixture.resolve(MixtureConfig(robot_share=0.0, name=None))
    plan = mixture.make_plan(MixtureConfig(robot_share=1.0, web={}), sources(tabletop=5), 4)
    assert plan.drawn(10).tolist() == [40]


def test_a_source_that_the_mixture_does_not_name_is_refused():
    with pytest.raises(UserError, match=r"no dataset 'bb'.*nearest is 'b'|no dataset 'bb'"):
        mixture.make_plan(inline(b=1.0), sources(bb=5, vqa=5), 4)


def test_an_empty_source_is_refused_by_name():
    with pytest.raises(UserError, match=r"dataset b: no examples"):
        mixture.make_plan(inline(b=1.0), sources(b=0, vqa=5), 4)


def test_a_stream_that_batches_want_needs_a_source():
    with pytest.raises(UserError, match="no web dataset was opened"):
        mixture.make_plan(inline(b=1.0), sources(b=5), 4)
    with pytest.raises(ValueError, match="robots come first"):
        mixture.make_plan(inline(b=1.0), sources(vqa=5, b=5), 4)
