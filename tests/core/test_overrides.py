"""Fields set by text: `config.a.b=text`."""

import dataclasses
from typing import Literal

import pytest

from vla_jax.core import config, overrides
from vla_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    path: str = "there"
    weight: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    seed: int = 0
    rate: float = 0.1
    name: str | None = "run"
    remat: bool = False
    kind: Literal["adamw", "sgd"] | None = "sgd"
    warmup: int | None = 3
    image: tuple[int, int] | None = (224, 224)
    views: tuple[str, ...] = ("front",)
    extra: Source | None = Source()
    sources: dict[str, Source] = dataclasses.field(default_factory=dict)
    weights: dict[str, float] = dataclasses.field(default_factory=dict)


def changed(path, text, start=None, implied=None):
    tree = config.to_config_dict(start or Run())
    overrides.apply(Run, tree, path, text, implied)
    return config.build(Run, tree)


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("seed", "7", 7),
        ("rate", "2", 2.0),
        ("rate", "1e-3", 1e-3),
        ("name", "None", None),
        ("name", "3", "3"),
        ("remat", "True", True),
        ("kind", "adamw", "adamw"),
        ("kind", "None", None),
        ("warmup", "None", None),
        ("warmup", "5", 5),
        ("image", "1,2", (1, 2)),
        ("image", "(1, 2)", (1, 2)),
        ("image", "None", None),
        ("views", "a", ("a",)),
        ("views", "a, b", ("a", "b")),
        ("views", '("a", "b")', ("a", "b")),
        ("views", "", ()),
        ("extra", "None", None),
        ("sources", "{'a': {'weight': 2}}", {"a": Source(weight=2.0)}),
    ],
)
def test_text_becomes_the_value_of_the_type(path, text, value):
    assert getattr(changed(f"config.{path}", text), path) == value


@pytest.mark.parametrize("name", ["name", "kind", "warmup", "image", "extra"])
def test_a_field_that_is_none_can_be_set_and_one_that_is_set_can_be_none(name):
    none = changed(f"config.{name}", "None")
    assert getattr(none, name) is None
    path, text = (
        (f"config.{name}", {"image": "(1, 2)", "kind": "sgd"}.get(name, "4"))
        if name != "extra"
        else ("config.extra.path", "x")
    )
    assert getattr(changed(path, text, none), name) is not None


def test_an_entry_of_a_dict_is_made_from_what_it_implies():
    implied = {"config.sources": {"a": {"weight": 5.0}}}
    run = changed("config.sources.a.path", "x", implied=implied)
    assert run.sources == {"a": Source(path="x", weight=5.0)}
    assert changed("config.sources.b.path", "x", implied=implied).sources["b"].weight == 1.0
    assert changed("config.weights.web", "0.5").weights == {"web": 0.5}


def test_one_of_several_values_is_set_by_its_index():
    assert changed("config.image[1]", "9").image == (224, 9)
    with pytest.raises(UserError, match=r"config\.image\[2\]: expected one of 2 values"):
        changed("config.image[2]", "9")


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("config.sed", "1", r"config\.sed: no such field: .*Did you mean config\.seed"),
        ("config.seed.x", "1", r"config\.seed\.x: no such field: expected no further name"),
        ("config.seed[0]", "1", r"config\.seed\[0\]: no such field"),
        ("config.extra.wight", "1", r"Did you mean config\.extra\.weight"),
        ("config.sources.a.wight", "1", r"Did you mean config\.sources\.a\.weight"),
        ("config.seed", "1.5", r"config\.seed: expected int, found '1\.5'"),
        ("config.seed", "None", r"config\.seed: expected int, found 'None'"),
        ("config.rate", "fast", r"config\.rate: expected float, found 'fast'"),
        ("config.warmup", "x", r"config\.warmup: expected int or None, found 'x'"),
        ("config.remat", "maybe", r"config\.remat: expected bool, found 'maybe'"),
        ("config.kind", "adam", r"config\.kind: expected one of 'adamw', 'sgd', found 'adam'"),
        ("config.image", "1,2,3", r"config\.image: expected 2 values, found 3"),
        ("config.image", "(" * 10_000, r"config\.image: expected tuple"),
        ("config.extra", "x", r"config\.extra: expected a name of its fields behind it, or None"),
        ("config.weights", "5", r"config\.weights: expected dict"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_path(path, text, message):
    with pytest.raises(UserError, match=message):
        changed(path, text)
