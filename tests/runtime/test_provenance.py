import shutil
import subprocess
import sys

import pytest

from vla_jax.runtime import provenance

git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def test_versions_are_those_of_this_interpreter():
    found = provenance.code()["versions"]
    assert found["python"] == sys.version.split()[0]
    assert {"jax", "numpy"} <= set(found)


@git
def test_the_revision_is_that_of_the_checkout_and_marks_changes(tmp_path, monkeypatch):
    def run(*arguments):
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    file = tmp_path / "provenance.py"
    file.write_text("1")
    monkeypatch.setattr(provenance, "__file__", str(file))
    assert provenance.code()["revision"] is None  # no checkout
    run("init", "-q")
    assert provenance.code()["revision"] is None  # nothing committed
    run("add", "-A")
    run("commit", "-qm", "one")
    head = run("rev-parse", "--short=12", "HEAD")
    assert provenance.code()["revision"] == head
    (tmp_path / "new.txt").write_text("not ours")
    assert provenance.code()["revision"] == head
    file.write_text("2")
    assert provenance.code()["revision"] == f"{head}+"
    other = tmp_path / "installed" / "provenance.py"
    other.parent.mkdir()
    other.write_text("1")
    monkeypatch.setattr(provenance, "__file__", str(other))
    assert provenance.code()["revision"] is None  # inside a checkout, and no part of it


def test_without_git_there_is_no_revision(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.code()["revision"] is None
