"""Every verb against every kind of slip in its flags: one line, before anything is opened."""

import pathlib

import pytest

from vla_jax.cli.main import VERBS

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs" / "tabletop.py")
POSITIONAL = {
    "eval": ["absent"],
    "act": ["absent"],
    "export": ["absent", "out"],
    "report": ["absent"],
    "index": ["absent"],
    "doctor": ["absent"],
    "ingest": ["absent"],
    "sweep": ["absent.py"],
    "inspect": [f"{CONFIG}:smoke"],
    "plan": [f"{CONFIG}:smoke"],
    "train": [f"--config={CONFIG}:smoke", "--workdir=run"],
}
# A flag of each verb that takes an integer, or a number.
NUMBER = {
    "eval": "episodes",
    "export": "shard_size",
    "plan": "batch",
    "sweep": "jobs",
    "inspect": "step",
    "demonstrate": "episodes",
    "train": "processes",
    "dist-check": "processes",
}
SLIPS = {
    "unknown": ["--wrkdir=x"],
    "like no other": ["--" + "z" * 5000 + "=1"],
    "no value": ["--cache_dir"],
    "empty path": ["--workdir=", "--out=", "--cache_dir="],
    "no name": ["--=x"],
    "half a character": ["--flag=\udcff"],
    "config without a value": ["--config"],
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("slip", SLIPS)
@pytest.mark.parametrize("verb", VERBS)
def test_a_slip_is_one_line(refused, verb, slip):
    line = refused(verb, *POSITIONAL.get(verb, []), *SLIPS[slip])
    assert len(line) < 1500


@pytest.mark.parametrize("text", ["many", "nan", "", "-1", "1" + "0" * 40, "0x", "1e400", "None"])
@pytest.mark.parametrize("verb", NUMBER)
def test_a_number_that_is_none_is_named(refused, verb, text):
    flag = NUMBER[verb]
    line = refused(verb, *POSITIONAL.get(verb, []), f"--{flag}={text}")
    assert flag in line.replace("-", "_") or "num_processes" in line
    assert len(line) < 600


@pytest.mark.parametrize("verb", [v for v in VERBS if v not in ("eval", "index")])
def test_what_stands_alone_is_counted(refused, verb):
    line = refused(verb, *POSITIONAL.get(verb, []), "junk", "more junk")
    assert "junk" in line or "absent" in line


@pytest.mark.parametrize(
    "path",
    [
        "x" * 300,
        "loop/run",
        "/proc/self/mem",
        "/dev/null",
        "file",
        "file/below",
        "\udcff",
        "/proc/1",
    ],
)
@pytest.mark.parametrize("verb", ["eval", "act", "export", "report", "index", "doctor", "inspect"])
def test_a_path_that_is_none_is_one_line(refused, tmp_path, verb, path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("{")
    more = {"export": ["out"], "act": ["--image=file", "--instruction=x"]}.get(verb, [])
    assert len(refused(verb, path, *more)) < 1500


@pytest.mark.parametrize("path", ["x" * 300, "loop/run", "/proc/x", "/dev/null", "file", "file/x"])
def test_a_workdir_that_cannot_be_is_one_line(refused, tmp_path, path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("{")
    refused("train", f"--config={CONFIG}:smoke", f"--workdir={path}", "--config.data_dir=data")
