"""Finding an adapter by the name that a config gives."""

import sys
import types

import pytest

from vla_jax.core.errors import UserError
from vla_jax.data.robots import table
from vla_jax.data.robots.tabletop import TABLETOP


@pytest.fixture
def lab(monkeypatch):
    module = types.ModuleType("lab_robots")
    module.ARM = TABLETOP
    module.arm = lambda: TABLETOP
    module.number = 3
    monkeypatch.setitem(sys.modules, "lab_robots", module)


def test_every_robot_is_found_by_its_name():
    for name, robot in table.ROBOTS.items():
        assert table.find(name) is robot
        assert robot.name == name


@pytest.mark.parametrize("path", ["lab_robots:ARM", "lab_robots:arm"])
def test_a_robot_of_the_users_own_package_is_found(lab, path):
    assert table.find(path) is TABLETOP


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"robot 'brigde_orig'.*nearest is 'bridge_orig'"):
        table.find("brigde_orig")


def test_a_name_like_no_other_lists_them():
    with pytest.raises(UserError, match=r"austin_buds.* more, or package.*CONTRIBUTING"):
        table.find("zzzz")


@pytest.mark.parametrize("path", ["no_such_package:ARM", ":ARM", ".relative:ARM"])
def test_a_module_that_is_not_there_is_named(path):
    with pytest.raises(UserError, match=rf"robot '{path}'.*PYTHONPATH"):
        table.find(path)


def test_a_constant_that_is_not_there_is_named(lab):
    with pytest.raises(UserError, match=r"lab_robots has no 'ARMS'.*nearest is 'ARM'"):
        table.find("lab_robots:ARMS")


def test_something_that_is_no_robot_is_refused(lab):
    with pytest.raises(UserError, match=r"not an adapter.*expected a Robot.*found int"):
        table.find("lab_robots:number")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ARM = 1 / 0", r"import of mine failed \(ZeroDivisionError.*See \S+mine.py, line 1"),
        ("def f(:", r"import of mine failed \(SyntaxError.*See \S+mine.py, line 1"),
        ("import json\n\ndef ARM():\n    raise OSError('no')", r"call of ARM failed.*line 4"),
    ],
)
def test_the_users_module_that_fails_is_named_with_the_line(tmp_path, monkeypatch, text, message):
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    with pytest.raises(UserError, match=message):
        table.find("mine:ARM")
    sys.modules.pop("mine", None)
