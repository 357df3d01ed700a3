"""Every number of a configuration has a range, and what is outside is refused by its path."""

import dataclasses
import math
import typing

import pytest

from vla_jax.core import config as config_lib
from vla_jax.core import fields
from vla_jax.core.errors import UserError
from vla_jax.experiment.config import RunConfig


def numbers(hint, path):
    """Yields the path and the annotation of every number below an annotation."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if (origin is typing.Annotated and args[0] in (int, float)) or hint in (int, float):
        yield path, hint
    elif origin is dict:
        yield from numbers(args[1], f"{path}.*")
    elif origin is tuple:
        yield from numbers(args[0], f"{path}[]")
        if args[-1] is not Ellipsis:
            yield from (pair for arg in args[1:] for pair in numbers(arg, f"{path}[]"))
    elif dataclasses.is_dataclass(hint):
        for name, inner in fields.annotations(hint).items():
            yield from numbers(inner, f"{path}.{name}")
    elif origin is not typing.Literal:
        for arg in args:
            yield from numbers(arg, path)


def kinds(hint):
    """Yields every dataclass below an annotation."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint
        for inner in fields.annotations(hint).values():
            yield from kinds(inner)
    for arg in typing.get_args(hint):
        yield from kinds(arg)


NUMBERS = dict(numbers(RunConfig, "config"))
PLAIN = {p: h for p, h in NUMBERS.items() if not any(c in p for c in "*[") and "fused" not in p}


def test_there_are_many():
    assert len(NUMBERS) > 120


def test_every_number_has_a_range():
    assert [path for path, hint in NUMBERS.items() if not any(fields.marks(hint))] == []


def test_every_class_with_numbers_checks_them():
    assert [
        kind.__name__
        for kind in set(kinds(RunConfig))
        if not issubclass(kind, fields.Checked)
        and any(path.count(".") == 1 for path, _ in numbers(kind, "x"))
    ] == []


def test_a_check_of_its_own_comes_after_that_of_the_ranges():
    for kind in set(kinds(RunConfig)):
        if issubclass(kind, fields.Checked) and "__post_init__" in vars(kind):
            assert "super" in kind.__post_init__.__code__.co_names, kind


@pytest.mark.parametrize("path", PLAIN)
def test_what_is_outside_is_refused_by_its_path(path):
    (mark,) = fields.marks(PLAIN[path])
    kind = typing.get_args(PLAIN[path])[0]
    wrong = [math.floor(mark.low) - 3, math.ceil(mark.high) * 2 + 1, 10**30, -(10**30)]
    wrong += [math.nan, math.inf, -math.inf] if kind is float else [10**5000]
    wrong += [mark.low] if mark.above else []
    wrong += [mark.high] if mark.below else []
    for value in wrong:
        tree: typing.Any = kind(value)
        for name in reversed(path.split(".")[1:]):
            tree = {name: tree}
        with pytest.raises(UserError) as caught:
            config_lib.build(RunConfig, tree)
        assert str(caught.value).startswith(f"{path}: expected {mark}, found "), value
        assert len(str(caught.value)) < 300


def test_a_home_directory_is_expanded_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/lab")
    config = config_lib.build(
        RunConfig,
        {
            "data_dir": "~/data",
            "cache_dir": "~/cache",
            "tokenizer": {"path": "~/t.json"},
            "action_tokens": {"fast": {"path": "~/fast"}},
            "pretrained": {"path": "~/weights"},
        },
    )
    assert (config.data_dir, config.cache_dir) == ("/home/lab/data", "/home/lab/cache")
    assert config.tokenizer.path == "/home/lab/t.json"
    assert config.action_tokens.fast.path == "/home/lab/fast"
    assert config.pretrained.path == "/home/lab/weights"
    remote = config_lib.build(RunConfig, {"pretrained": {"path": "hf://~/x"}})
    assert remote.pretrained.path == "hf://~/x"
