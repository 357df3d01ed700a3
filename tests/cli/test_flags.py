"""Every slip in a command line of `train` is one line that names it."""

import pathlib

import pytest

from vla_jax.cli import train
from vla_jax.core import config as config_lib
from vla_jax.experiment.workdir import Workdir

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs" / "tabletop.py")
SMOKE = f"--config={CONFIG}:smoke"


def test_overrides_reach_the_run(tmp_path):
    arguments = [SMOKE, "--config.loop.steps=3", "--config.bins.count=128", f"--workdir={tmp_path}"]
    config, values = train.parse(arguments)
    assert (config.loop.steps, config.bins.count, values.workdir) == (3, 128, str(tmp_path))
    assert config.tabletop.demonstrations.episodes == 40  # from the variant


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=w"], "expected --config=..., found none"),
        ([SMOKE], "expected --workdir=..., found none"),
        (["--config=nowhere/x.py", "--workdir=w"], "config file nowhere/x.py: expected"),
        ([f"--config={CONFIG}:smok", "--workdir=w"], "cofinetuned, robot_only, smoke, found smok"),
        ([SMOKE, "--workdir=w", "--config.loop.step=3"], "Did you mean config.loop.steps"),
        ([SMOKE, "--workdir=w", "--config.lop.steps=3"], "Did you mean config.loop"),
        ([SMOKE, "--workdir=w", "--config.loop.steps.x=3"], "expected no further name"),
        ([SMOKE, "--workdir=w", "--config.loop.steps=many"], "many"),
        ([SMOKE, "--workdir=w", "--config.loop.steps=1.5"], "1.5"),
        ([SMOKE, "--workdir=w", "--config.prompts.robot=rt3"], "expected one of 'rt2'"),
        ([SMOKE, "--workdir=w", "--config.bins.count=1"], "expected 2..4096, found 1"),
        (
            [SMOKE, "--workdir=w", "--config.mesh.data=0"],
            "mesh.data: expected 1..1048576 or -1",
        ),
        ([SMOKE, "--workdir=w", "--config.mixture.name=bridg"], "The nearest is 'bridge'"),
        ([SMOKE, "--workdir=w", "--config.sequence.suffix=5"], "at least 9"),
        ([SMOKE, "--workdir=w", "--wrkdir=x"], "wrkdir"),
        ([SMOKE, "--workdir=w", "more"], "expected flags only, found more"),
    ],
)
def test_a_slip_is_one_line(refused, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused("train", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_workdir_of_another_run_is_told_apart(refused, tmp_path):
    config, _ = train.parse([SMOKE, "--workdir=w"])
    workdir = Workdir(tmp_path / "run")
    workdir.claim(config)
    workdir.results.write_text("{}")  # one that has saved nothing would give way
    line = refused("train", SMOKE, f"--workdir={tmp_path / 'run'}", "--config.seed=5")
    assert "holds another run: config.seed: 0 -> 5" in line


def test_a_workdir_with_other_things_is_left_alone(refused, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    assert "something else in the way" in refused("train", SMOKE, f"--workdir={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_more_bins_than_the_vocabulary_holds(refused, tmp_path):
    small = [
        "--config.tabletop.demonstrations.episodes=10",
        "--config.tabletop.questions.train=10",
        "--config.tabletop.questions.validation=10",
    ]
    places = [f"--workdir={tmp_path / 'run'}", f"--config.data_dir={tmp_path / 'data'}"]
    line = refused("train", SMOKE, "--config.bins.count=300", *small, *places)
    assert "more bins than rows to overwrite: expected at most 256" in line


def test_a_config_is_the_same_after_its_file(tmp_path):
    config, _ = train.parse([SMOKE, "--workdir=w"])
    workdir = Workdir(tmp_path / "run")
    workdir.claim(config)
    assert config_lib.to_json(workdir.config()) == config_lib.to_json(config)
