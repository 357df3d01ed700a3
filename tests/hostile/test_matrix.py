"""No damage to any file that is read stays unnoticed or ends in a traceback."""

import matrix
import numpy as np
import pytest
from subjects import SUBJECTS, Subject


def bad(cases):
    return [str(case) for case in cases if case.outcome in matrix.BAD]


def covered(name):
    return "flip" not in SUBJECTS[name].uncovered


@pytest.mark.parametrize("name", SUBJECTS)
def test_some_of_the_matrix(name, tmp_path):
    cases = list(matrix.Bench(name, tmp_path).matrix(np.random.default_rng(17), most=1, limit=12))
    assert len(cases) >= 4  # a few files, each in many ways
    assert bad(cases) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBJECTS)
def test_the_matrix(name, tmp_path):
    assert bad(matrix.Bench(name, tmp_path).matrix(np.random.default_rng(1), most=8)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SUBJECTS if covered(name)])
def test_random_bits(name, tmp_path):
    assert bad(matrix.Bench(name, tmp_path).flips(np.random.default_rng(2), 100)) == []


def test_what_is_silent_or_a_traceback_is_found(tmp_path, monkeypatch):
    def use(folder):
        text = folder.joinpath("a.txt").read_text()
        return text.index("x"), len(text)

    silent = Subject(make=lambda f: f.joinpath("a.txt").write_text("abxcd"), use=use)
    monkeypatch.setitem(matrix.SUBJECTS, "sloppy", silent)
    cases = list(matrix.Bench("sloppy", tmp_path).matrix(np.random.default_rng(0), most=4))
    outcomes = {case.damage.kind: case.outcome for case in cases}
    assert outcomes["absent"] == outcomes["directory"] == outcomes["empty"] == "traceback"
    assert "silent" in {case.outcome for case in cases if case.damage.kind == "truncate"}
