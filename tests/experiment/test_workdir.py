import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from vla_jax.actions import bins
from vla_jax.actions.bins import BinsConfig
from vla_jax.actions.normalize import Normalizer
from vla_jax.actions.statistics import Statistics
from vla_jax.core.errors import UserError
from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.experiment import workdir as workdir_lib
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import Workdir
from vla_jax.policy import exported_manifest
from vla_jax.runtime.checkpoint import CheckpointConfig
from vla_jax.runtime.mesh import MeshConfig
from vla_jax.runtime.metrics import MetricsConfig
from vla_jax.runtime.profiler import ProfilerConfig
from vla_jax.tokens.action_tokens import ActionTokens, ActionTokensConfig, choose_ids
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.sequence import SequenceConfig
from vla_jax.tokens.tokenizer import Tokenizer
from vla_jax.train.optimizer import OptimizerConfig

CONFIG = RunConfig(seed=3, checkpoint=CheckpointConfig(keep=5))


@pytest.fixture
def workdir(tmp_path):
    return Workdir(tmp_path / "runs" / "first")


@pytest.fixture
def begun(workdir):
    """A run that has saved a checkpoint."""
    workdir.claim(CONFIG)
    (workdir.checkpoints / "10").mkdir(parents=True)
    return workdir


def make_encoder(scheme="overwrite", kind="uniform"):
    texts = ("pick up the red cube", "what is it", "<loc0001>")
    config = ActionTokensConfig(scheme=scheme, rows="last")
    tokenizer, ids = choose_ids(config, Tokenizer.train(texts, 300, 64), 32)
    rng = np.random.default_rng(0)
    actions = rng.uniform(TABLETOP.spec.low, TABLETOP.spec.high, (50, 8)).astype(np.float32)
    statistics = Statistics.of(actions)
    values = Normalizer(statistics, TABLETOP.spec).normalize(actions)
    cut = bins.make(BinsConfig(kind=kind, count=32), values, TABLETOP.spec.discrete, "tabletop")
    return Encoder(
        tokenizer,
        {"tabletop": ActionTokens(TABLETOP.spec, statistics, ids, cut)},
        PromptsConfig(robot="openvla", web="paligemma"),
        SequenceConfig(prefix=90, suffix=11),
    )


def test_a_new_directory_is_claimed_and_found_again(workdir):
    workdir.claim(CONFIG)
    assert workdir.config() == CONFIG
    before = workdir.path.joinpath("config.json").read_bytes()
    workdir.claim(CONFIG)
    Workdir(workdir.path).claim(CONFIG)
    assert workdir.path.joinpath("config.json").read_bytes() == before
    assert [path.name for path in workdir.path.iterdir()] == ["config.json"]


def test_an_empty_directory_is_claimed(tmp_path):
    Workdir(tmp_path).claim(CONFIG)
    assert Workdir(tmp_path).config() == CONFIG


def test_another_run_is_refused_with_what_differs(begun):
    other = dataclasses.replace(CONFIG, seed=4, optimizer=OptimizerConfig(learning_rate=0.5))
    with pytest.raises(UserError) as refused:
        begun.claim(other)
    message = str(refused.value)
    assert "config.seed: 3 -> 4" in message
    assert "config.optimizer.learning_rate: 2e-05 -> 0.5" in message
    assert message.count("->") == 2
    assert str(begun.path) in message
    assert begun.config() == CONFIG


@pytest.mark.parametrize(
    "change",
    [
        {"mesh": MeshConfig(fsdp=4, cpu_devices=2)},
        {"checkpoint": CheckpointConfig(every=7, keep=1, best="success/seen")},
        {"loop": dataclasses.replace(CONFIG.loop, on_nonfinite="skip", max_nonfinite=3)},
        {"profiler": ProfilerConfig(first=7), "metrics": MetricsConfig(wandb="arms")},
    ],
)
def test_a_run_may_go_on_elsewhere(begun, change):
    other = dataclasses.replace(CONFIG, **change)
    begun.claim(other)
    assert begun.config() == other


def test_a_run_of_a_version_with_fewer_fields_goes_on(begun):
    path = begun.path / "config.json"
    before = json.loads(path.read_text())
    del before["bins"]["kind"]
    path.write_text(json.dumps(before))
    begun.claim(CONFIG)
    with pytest.raises(UserError, match=r"another run: config\.bins\.kind: uniform -> mu_law"):
        begun.claim(dataclasses.replace(CONFIG, bins=BinsConfig(kind="mu_law")))


def test_the_length_of_a_run_is_part_of_it(begun):
    longer = dataclasses.replace(CONFIG.loop, steps=CONFIG.loop.steps + 1)
    with pytest.raises(UserError, match=r"holds another run: config\.loop\.steps"):
        begun.claim(dataclasses.replace(CONFIG, loop=longer))


def test_a_run_may_go_on_with_other_threads_and_skip_what_is_damaged(begun):
    loader = dataclasses.replace(CONFIG.loader, threads=1, prefetch=1, on_corrupt="skip")
    other = dataclasses.replace(CONFIG, loader=loader)
    begun.claim(other)
    assert begun.config() == other
    with pytest.raises(UserError, match=r"another run: config\.seed: 3 -> 4\. Take"):
        begun.claim(dataclasses.replace(CONFIG, seed=4))
    assert begun.config() == other


def test_a_run_from_before_a_limit_of_pixels_goes_on_with_one(begun):
    path = begun.path / "config.json"
    before = json.loads(path.read_text())
    del before["loader"]["max_pixels"]
    path.write_text(json.dumps(before))
    assert begun.config() == CONFIG
    begun.claim(CONFIG)
    loader = dataclasses.replace(CONFIG.loader, max_pixels=10**6)
    begun.claim(dataclasses.replace(CONFIG, loader=loader))
    assert begun.config().loader == loader


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"expected a new or empty directory.*Take another"):
        Workdir(tmp_path).claim(CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="something else in the way"):
        Workdir(tmp_path / "run").claim(CONFIG)


def test_a_run_that_saved_nothing_gives_way_to_another(workdir, capsys):
    workdir.claim(CONFIG, {"command": "first"})
    workdir.save_encoder(make_encoder())
    for name in ("frozen/0", "checkpoints/5.orbax-checkpoint-tmp", "events", "nonfinite"):
        (workdir.path / name).mkdir(parents=True)
    (workdir.path / "metrics.jsonl").write_text('{"step": 1}')
    other = dataclasses.replace(CONFIG, seed=4)
    assert not workdir.check(other)
    workdir.claim(other, {"command": "second"})
    assert "gives way to this one (config.seed: 3 -> 4)" in capsys.readouterr().out
    assert workdir.config() == other
    assert json.loads(workdir.origin.read_text()) == {"command": "second"}
    left = {path.name for path in workdir.path.iterdir()}
    assert left == {"config.json", "origin.json", "nonfinite"}
    workdir_lib.write_json(workdir.results, {})  # now there is something to lose
    with pytest.raises(UserError, match="holds another run"):
        workdir.claim(CONFIG)


def test_a_run_goes_on_with_its_datasets_elsewhere(begun, capsys):
    moved = dataclasses.replace(CONFIG, data_dir="/elsewhere")
    assert begun.check(moved)
    assert begun.config() == CONFIG
    begun.claim(moved)
    said = "datasets are taken from elsewhere: config.data_dir: data -> /elsewhere"
    assert said in capsys.readouterr().out
    assert begun.config() == moved


class KilledError(BaseException):
    """Nothing that any code may catch."""


class Killer:
    """Counts what changes the disk; the process is dead from one of these moments on."""

    CHANGES = ((os, "replace"), (os, "mkdir"), (os, "unlink"), (os, "rmdir"))

    def __init__(self, monkeypatch, moment):
        self._left = moment
        for owner, name in (*self.CHANGES, (pathlib.Path, "write_bytes")):
            monkeypatch.setattr(owner, name, self._deadly(getattr(owner, name), name))

    def _deadly(self, change, name):
        def call(*inputs, **named):
            self._tick()
            if name == "write_bytes" and self._left == 0:  # half of it is written
                change(inputs[0], inputs[1][: len(inputs[1]) // 2])
            self._tick()
            result = change(*inputs, **named)
            self._tick()
            return result

        return call

    def _tick(self):
        if self._left <= 0:
            raise KilledError
        self._left -= 1


def die_at_every_moment(act, check):
    """Kills `act` at every moment, and calls `check` after each."""
    for moment in range(1000):
        with pytest.MonkeyPatch.context() as patch:
            Killer(patch, moment)
            try:
                act(moment)
            except KilledError:
                pass
            else:
                return moment
        check(moment)
    raise AssertionError("it never ends")


def test_a_claim_killed_at_any_moment_is_made_by_the_same_command(tmp_path):
    origin = {"command": "vla-jax train"}

    def again(moment):
        workdir = Workdir(tmp_path / str(moment) / "run")
        with workdir.held():
            assert workdir.check(CONFIG) == (workdir.path / "config.json").exists()
            workdir.claim(CONFIG, origin)
        assert workdir.config() == CONFIG
        assert json.loads(workdir.origin.read_text()) == origin
        assert workdir.load_encoder() is None
        left = {path.name for path in workdir.path.iterdir()}
        assert left - {".config.json.partial", ".origin.json.partial"} == {
            "config.json",
            "origin.json",
        }

    def claim(moment):
        workdir = Workdir(tmp_path / str(moment) / "run")
        with workdir.held():
            workdir.claim(CONFIG, origin)

    assert die_at_every_moment(claim, again) > 15


def test_a_run_that_gives_way_is_never_half_of_two(tmp_path):
    first = Workdir(tmp_path / "first")
    first.claim(CONFIG)
    first.save_encoder(make_encoder())
    (first.frozen / "0").mkdir(parents=True)
    other = dataclasses.replace(CONFIG, seed=4)

    def claim(moment):
        Workdir(tmp_path / str(moment)).claim(other, {})

    def again(moment):
        for wanted in (other, CONFIG, other):
            workdir = Workdir(tmp_path / str(moment))
            assert not (workdir.config() == other and workdir.load_encoder())
            workdir.claim(wanted, {})
            assert workdir.config() == wanted

    for moment in range(100):
        shutil.copytree(first.path, tmp_path / str(moment))
    assert die_at_every_moment(claim, again) > 20


def test_one_training_at_a_time(workdir):
    with workdir.held():
        workdir.claim(CONFIG)
        with (
            pytest.raises(UserError, match=rf"in use by process {os.getpid()} on .*Wait until"),
            Workdir(workdir.path).held(),
        ):
            pass
        assert workdir.config() == CONFIG
    with workdir.held():  # given back
        pass
    assert [path.name for path in workdir.path.iterdir()] == ["config.json"]


def test_a_directory_without_a_run_has_no_config(workdir):
    with pytest.raises(UserError, match=r"expected a run .*found none.*vla-jax train"):
        workdir.config()


def test_a_damaged_config_is_named(workdir):
    workdir.claim(CONFIG)
    file = workdir.path / "config.json"
    file.write_text(file.read_text()[:100])
    for act in (workdir.config, lambda: workdir.claim(CONFIG)):
        with pytest.raises(UserError, match=r"config\.json: not valid JSON"):
            act()


def test_a_run_of_another_version_is_refused(workdir):
    workdir.claim(RunConfig())
    workdir.save_encoder(make_encoder())
    path = workdir.path / "policy.json"
    written = json.loads(path.read_text())
    del written["vocabulary"]
    path.write_text(json.dumps(written))
    exported_manifest.accept(workdir.path)
    with pytest.raises(UserError, match=r"policy\.json: .* `?vocabulary`?.* another version"):
        workdir.load_encoder()


@pytest.mark.parametrize(
    ("scheme", "kind"), [("overwrite", "uniform"), ("overwrite", "quantile"), ("extend", "mu_law")]
)
def test_the_encoder_comes_back_with_equal_tokens(workdir, scheme, kind):
    encoder = make_encoder(scheme, kind)
    workdir.claim(CONFIG)
    workdir.save_encoder(encoder)
    again = Workdir(workdir.path).load_encoder()
    assert again.tokenizer.size == encoder.tokenizer.size
    assert again.layout == encoder.layout
    assert again.prompts == encoder.prompts
    assert again.actions["tabletop"].spec == encoder.actions["tabletop"].spec
    assert again.actions["tabletop"].statistics == encoder.actions["tabletop"].statistics
    for text in ("pick up the red cube", "Something else, entirely!"):
        for robot in (True, False):
            found, expected = (e.prefix(text, robot=robot) for e in (again, encoder))
            assert found[1] == expected[1]
            np.testing.assert_array_equal(found[0], expected[0])
    actions = np.random.default_rng(1).uniform(-1, 1, (20, 8)).astype(np.float32)
    found, expected = (e.actions["tabletop"].encode(actions) for e in (again, encoder))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        again.actions["tabletop"].decode(found), encoder.actions["tabletop"].decode(expected)
    )


def test_tokens_of_a_run_that_knew_one_kind_of_bins_are_read(workdir):
    encoder = make_encoder()
    workdir.claim(CONFIG)
    workdir.save_encoder(encoder)
    path = workdir.path / "policy.json"
    written = json.loads(path.read_text())
    del written["robots"]["tabletop"]["bins"]
    path.write_text(json.dumps(written | {"bins_convention": "uniform"}))
    (workdir.path / exported_manifest.FILE).unlink()  # which that version did not write
    actions = np.random.default_rng(1).uniform(-1, 1, (20, 8)).astype(np.float32)
    found, expected = (
        e.actions["tabletop"].encode(actions) for e in (workdir.load_encoder(), encoder)
    )
    np.testing.assert_array_equal(found, expected)


def test_there_is_no_encoder_before_it_is_saved(workdir):
    workdir.claim(CONFIG)
    assert workdir.load_encoder() is None


def test_a_failed_write_keeps_the_old_file(workdir):
    workdir.claim(CONFIG)
    workdir_lib.write_json(workdir.results, {"a": 1})
    with pytest.raises(TypeError):
        workdir_lib.write_json(workdir.results, {"a": object()})
    assert json.loads(workdir.results.read_text()) == {"a": 1}
