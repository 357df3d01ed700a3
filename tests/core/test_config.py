import dataclasses
import json
from typing import Literal

import pytest
from ml_collections import config_dict

from vla_jax.core import config, errors, fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    path: str
    weight: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    learning_rate: float = 1e-3
    kind: Literal["adamw", "sgd"] = "adamw"
    warmup: int | None = None

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise ValueError("learning_rate must be positive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    seed: int = 0
    name: str = "run"
    remat: bool = False
    image: tuple[int, int] = (224, 224)
    views: tuple[str, ...] = ("front",)
    optimizer: Optimizer = Optimizer()
    sources: dict[str, Source] = dataclasses.field(default_factory=dict)
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    extra: Optimizer | None = None
    stages: tuple[Source, ...] = ()


RICH = Run(
    image=(64, 32),
    views=("front", "wrist"),
    optimizer=Optimizer(kind="sgd", warmup=3),
    sources={"a": Source(path="x"), "b": Source(path="y", weight=2.0)},
    weights={"web": 0.5},
    extra=Optimizer(learning_rate=0.5),
    stages=(Source(path="s"),),
)


@pytest.mark.parametrize("run", [Run(), RICH])
def test_round_trips(run):
    assert config.build(Run, config.to_config_dict(run)) == run
    plain = json.loads(json.dumps(config.to_json(run)))
    assert config.from_json(Run, plain) == run


def test_absent_fields_take_the_defaults():
    tree = config_dict.ConfigDict({"optimizer": {"warmup": 5}})
    assert config.build(Run, tree) == Run(optimizer=Optimizer(warmup=5))


def test_an_int_passes_for_a_float_and_comes_out_as_one():
    rate = config.build(Optimizer, {"learning_rate": 1}).learning_rate
    assert rate == 1
    assert type(rate) is float


def test_a_check_that_names_its_own_path_does_not_hear_it_twice():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Picky:
        weight: float = 1.0

        def __post_init__(self):
            raise errors.UserError("config.picky.weight", expected="a number above 0", found=0.0)

    with pytest.raises(errors.UserError) as caught:
        config.build(Picky, {}, "config.picky")
    assert str(caught.value) == "config.picky.weight: expected a number above 0, found 0.0."


def test_a_config_file_may_fill_an_empty_dict():
    tree = config.to_config_dict(Run())
    tree.sources = {"a": {"path": "x"}}
    assert config.build(Run, tree).sources == {"a": Source(path="x")}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"sed": 1}, "config.sed: Run has no such field: .* The nearest is 'seed'"),
        ({"optimizer": {"learning_rat": 1}}, "config.optimizer.learning_rat: .*'learning_rate'"),
        ({"seed": "1"}, "config.seed: expected int, found str '1'"),
        ({"seed": True}, "config.seed: expected int, found bool True"),
        ({"remat": 1}, "config.remat: expected bool, found int 1"),
        ({"seed": 1.0}, "config.seed: expected int, found float"),
        ({"optimizer": 3}, "config.optimizer: expected Optimizer, found int 3"),
        ({"image": (1, 2, 3)}, "config.image: expected 2 values, found 3"),
        ({"image": (1, "x")}, r"config.image\[1\]: expected int, found str 'x'"),
        ({"views": "front"}, "config.views: expected tuple"),
        ({"weights": {"a": "x"}}, "config.weights.a: expected float"),
        ({"weights": 1}, "config.weights: expected dict"),
        ({"sources": {"a": {"weight": 1.0}}}, "config.sources.a.path: Source needs this field"),
        ({"optimizer": {"kind": "adam"}}, "config.optimizer.kind: expected one of .*'adamw'"),
        ({"optimizer": {"learning_rate": 0}}, "config.optimizer: learning_rate must be positive"),
    ],
)
def test_errors_name_the_path(tree, message):
    with pytest.raises(errors.UserError, match=message):
        config.build(Run, tree)


def test_an_annotation_that_cannot_be_checked_is_a_mistake_of_ours():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Loose:
        value: object = None

    with pytest.raises(TypeError, match=r"config\.value"):
        config.build(Loose, {"value": 1})


def test_differences_name_the_changed_leaves_only():
    old = config.to_json(RICH)
    new = config.to_json(
        dataclasses.replace(
            RICH,
            optimizer=dataclasses.replace(RICH.optimizer, learning_rate=2e-3),
            sources={"a": RICH.sources["a"]},
        )
    )
    assert config.differences(old, new) == [
        "config.optimizer.learning_rate: 0.001 -> 0.002",
        "config.sources.b.path: y -> absent",
        "config.sources.b.weight: 2.0 -> absent",
    ]
    assert config.differences(old, old) == []


@dataclasses.dataclass(frozen=True)
class Optional(fields.Checked):
    sizes: tuple[fields.Size, ...] | None = None
    pair: tuple[fields.Size, fields.NotNegative] | None = None
    shares: dict[str, fields.NotNegative] | None = None


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"sizes": (1, 2, 0)}, r"sizes\[2\]"),
        ({"pair": (1, -0.5)}, r"pair\[1\]"),
        ({"shares": {"a": 1.0, "b": -1.0}}, r"shares\.b"),
    ],
)
def test_numbers_inside_of_what_may_be_none_have_their_ranges(values, place):
    Optional(), Optional(sizes=(3,), pair=(1, 0.0), shares={"a": 0.0})
    with pytest.raises(errors.UserError, match=place):
        Optional(**values)
