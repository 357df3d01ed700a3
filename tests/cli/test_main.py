"""The verbs: their list, their help, and what a wrong one says."""

import importlib

import pytest

from vla_jax.cli import main as cli
from vla_jax.core.errors import UserError


@pytest.mark.parametrize("argument", ["--help", "-h", "help", None])
def test_help_lists_every_verb(vla_jax, argument):
    code, out, _ = vla_jax(*([argument] if argument else []))
    assert code == 0
    assert all(f"  {verb} " in out for verb in cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_every_verb_explains_itself(vla_jax, verb, argument):
    code, out, err = vla_jax(verb, argument)
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: vla-jax {verb} ")


def test_help_of_train_names_its_flags_whatever_else_is_wrong(vla_jax):
    code, out, _ = vla_jax("train", "--config=nowhere.py", "--help")
    assert code == 0
    assert "--config " in out
    assert "--workdir " in out


def test_an_unknown_verb_is_told_the_nearest(refused):
    assert "Did you mean train." in refused("trian")
    assert f"expected {', '.join(cli.VERBS)}, found xyzzy" in refused("xyzzy")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("thing", expected=1, found=2), 1, "vla-jax: thing: expected 1, found 2.\n"),
        (KeyboardInterrupt("stopped at step 3"), 130, "vla-jax: stopped at step 3\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "vla-jax: Permission denied: /x. "),
        (NotADirectoryError(20, "Not a directory", "/f/x"), 1, "vla-jax: Not a directory: /f/x. "),
    ],
)
def test_what_a_verb_raises_becomes_one_line(vla_jax, monkeypatch, error, code, line):
    def fail(arguments):
        raise error

    monkeypatch.setattr(importlib.import_module("vla_jax.cli.export"), "main", fail)
    found, _, err = vla_jax("export")
    assert found == code
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_a_defect_of_ours_keeps_its_traceback(vla_jax, monkeypatch):
    def fail(arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(importlib.import_module("vla_jax.cli.export"), "main", fail)
    with pytest.raises(OSError, match="Input/output"):
        vla_jax("export")
