"""Config files, sweep files and adapters that fail: one line with file, line and exception."""

import pytest

from vla_jax.core.errors import UserError
from vla_jax.experiment import config_file
from vla_jax.sweep import sweep

HEAD = "from vla_jax.experiment import config as e\n"
GOOD = HEAD + "def get_config(variant='a'):\n    c = e.defaults()\n"

CASES = {
    "raises": (GOOD + "    return {}['x']", r"failed \(KeyError: 'x'\)\. See .*c\.py, line 4"),
    "raises at once": ("x = 1\n1 / 0", r"failed \(ZeroDivisionError.*c\.py, line 2"),
    "syntax": ("def f(:\n  pass", r"failed \(SyntaxError.*c\.py, line 1"),
    "import": ("import absent_module", r"ModuleNotFoundError.*absent_module.*c\.py, line 1"),
    "no get_config": ("x = 1", "expected a function get_config.*found no get_config"),
    "get_config is no function": ("get_config = 3", "found int"),
    "None": ("def get_config(v=None): pass", "returns a ConfigDict.*found NoneType"),
    "a dict": ("def get_config(v=None): return {}", "returns a ConfigDict.*found dict"),
    "a field that is none": (GOOD + "    c.lop.steps = 3\n    return c", r"lop.*c\.py, line 4"),
    "a wrong type": (GOOD + "    c.seed = 'x'\n    return c", r"seed|TypeError.*line 4"),
    "exits": (GOOD + "    raise SystemExit(3)", r"SystemExit: 3.*c\.py, line 4"),
    "recurses": (GOOD + "    return get_config()", r"RecursionError.*c\.py, line 3"),
    "no text": (b"\xff\xfe\x00", r"failed \(SyntaxError|UnicodeDecodeError"),
    "null": (b"x = 1\0", r"failed \((SyntaxError|ValueError)"),
    "out of range": (GOOD + "    c.seed = -1\n    return c", r"config\.seed: expected 0\.\.429"),
    "nan": (GOOD + "    c.optimizer.learning_rate = float('nan')\n    return c", "0 < x <= .*nan"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_config_file_that_fails_is_one_line(tmp_path, case):
    text, message = CASES[case]
    path = tmp_path / "c.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        config_file.load(str(path))
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("path", ["absent.py", ".", "x" * 300, "loop", "a\0b.py"])
def test_a_config_file_that_is_not_there_is_one_line(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="config file"):
        config_file.load(path)


def test_a_variant_of_a_file_without_any_is_refused(tmp_path):
    (tmp_path / "c.py").write_text(HEAD + "def get_config():\n    return e.defaults()")
    with pytest.raises(UserError, match=r"c\.py:x: expected a file alone"):
        config_file.load(f"{tmp_path}/c.py:x")
    (tmp_path / "c.py").write_text(HEAD + "def get_config(variant):\n    return e.defaults()")
    with pytest.raises(UserError, match=r"expected FILE\.py:variant"):
        config_file.load(f"{tmp_path}/c.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "found no SWEEP"),
        ("SWEEP = None", "found NoneType"),
        ("x = 1\nraise KeyError('arm')", r"failed \(KeyError: 'arm'\)\. See .*s\.py, line 2"),
        ("import absent_module", r"ModuleNotFoundError.*line 1"),
        (
            "from vla_jax.sweep.sweep import *\nSWEEP = Sweep(config=1, arms=2, measures=3)",
            "line 2",
        ),
        ("from vla_jax.sweep.sweep import *\nSWEEP = Sweep(confg=1)", r"TypeError.*confg.*line 2"),
    ],
)
def test_a_sweep_file_that_fails_is_one_line(tmp_path, text, message):
    (tmp_path / "s.py").write_text(text)
    with pytest.raises(UserError, match=message):
        sweep.load(tmp_path / "s.py")
