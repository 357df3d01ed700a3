import pathlib

import pytest

from vla_jax.core import paths
from vla_jax.core.errors import UserError


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert paths.expand("~/runs") == "/home/someone/runs"
    assert paths.expand(pathlib.Path("~/runs")) == "/home/someone/runs"
    assert paths.expand("a/~b") == "a/~b"
    assert paths.expand("gs://bucket/~x") == "gs://bucket/~x"


def test_names_stay_below(tmp_path):
    assert paths.below(tmp_path, "data/a.parquet", "x") == tmp_path / "data/a.parquet"
    assert paths.below(tmp_path, "..hidden", "x") == tmp_path / "..hidden"


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../a", "a/../../b", "a\\..\\b", "C:\\x", "a\0b", "file:///etc/x"]
)
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"meta/info\.json, field data_path"):
        paths.below(tmp_path, name, "meta/info.json, field data_path")
