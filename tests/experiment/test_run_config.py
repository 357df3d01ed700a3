"""RunConfig as a whole: strict, round-tripping, and without a field that does nothing."""

import ast
import copy
import dataclasses
import json
import pathlib
import typing

import pytest

import vla_jax
from vla_jax.core import config as config_lib
from vla_jax.core.errors import UserError
from vla_jax.experiment import config as experiment
from vla_jax.experiment.config import RunConfig

TREE = config_lib.to_json(RunConfig())


def with_value(path, value):
    tree = copy.deepcopy(TREE)
    node = tree
    *parents, last = path.split(".")
    for name in parents:
        node = node[name]
    node[last] = value
    return tree


def test_the_defaults_survive_flags_and_json():
    assert config_lib.build(RunConfig, experiment.defaults()) == RunConfig()
    assert config_lib.from_json(RunConfig, json.loads(json.dumps(TREE))) == RunConfig()


def test_an_overridden_field_arrives():
    c = experiment.defaults()
    c.optimizer.learning_rate = 0.5
    c.model.decoder.depth = 3
    c.evaluation.blocks = (1, 4)
    c.tokenizer.path = "tokenizer.json"
    built = config_lib.build(RunConfig, c)
    assert built.optimizer.learning_rate == 0.5
    assert built.model.decoder.depth == 3
    assert built.evaluation.blocks == (1, 4)
    assert built.tokenizer.path == "tokenizer.json"


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("optimzer", "optimizer"),
        ("optimizer.learning_rat", "learning_rate"),
        ("model.decoder.dept", "depth"),
        ("tabletop.demonstrations.noise.motoin", "motion"),
    ],
)
def test_an_unknown_field_is_refused_with_its_path_and_the_nearest(path, nearest):
    with pytest.raises(UserError, match=rf"config\.{path}: .*no such field.*'{nearest}'"):
        config_lib.build(RunConfig, with_value(path, 1))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("loop.steps", "10", r"expected int, found str '10'"),
        ("loop.steps", 10.5, r"expected int, found float 10\.5"),
        ("seed", True, r"expected int, found bool True"),
        (
            "optimizer.schedule.kind",
            "cosin",
            r"expected one of .*found 'cosin'.*nearest is 'cosine'",
        ),
        ("model", 3, r"expected VLMConfig, found int 3"),
        ("evaluation.blocks", [1, 2, 3], r"expected 2 values, found 3"),
        ("model.vision.stem_strides", [2.5], r"expected int, found float"),
    ],
)
def test_an_ill_typed_value_is_refused_with_its_path(path, value, message):
    with pytest.raises(UserError, match=rf"config\.{path}.*{message}"):
        config_lib.build(RunConfig, with_value(path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("mixture.name", "bridg", r"config\.mixture\.name: .*'bridg'.*nearest is 'bridge'"),
        ("mixture.robots", {"widow": {}}, r"widow"),
        ("sequence.suffix", 8, r"config\.sequence\.suffix.*at least 9.*found 8"),
        ("evaluation.slots", 0, r"config\.evaluation\.slots: expected 1\.\.4096"),
        ("bins.count", 1, r"config\.bins\.count: expected 2\.\.4096, found 1"),
    ],
)
def test_values_that_do_not_go_together_are_refused(path, value, message):
    with pytest.raises(UserError, match=message):
        config_lib.build(RunConfig, with_value(path, value))


def declared(cls, path="config"):
    """Yields (path, name) of every leaf field below a config dataclass."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from declared(hints[field.name], f"{path}.{field.name}")
        else:
            yield f"{path}.{field.name}", field.name


class Reads(ast.NodeVisitor):
    """Collects the names of attributes that are read, checks of the values left out."""

    def __init__(self):
        self.names = set()

    def visit_FunctionDef(self, node):
        if node.name != "__post_init__":
            self.generic_visit(node)

    def visit_Attribute(self, node):
        if isinstance(node.ctx, ast.Load):
            self.names.add(node.attr)
        self.generic_visit(node)


def test_every_field_is_read_somewhere():
    reads = Reads()
    for file in pathlib.Path(vla_jax.__path__[0]).rglob("*.py"):
        reads.visit(ast.parse(file.read_text()))
    fields = dict(declared(RunConfig))
    assert len(fields) > 70
    assert [path for path, name in fields.items() if name not in reads.names] == []
