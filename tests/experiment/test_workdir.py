import dataclasses
import json

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


def test_another_run_is_refused_with_what_differs(workdir):
    workdir.claim(CONFIG)
    other = dataclasses.replace(CONFIG, seed=4, optimizer=OptimizerConfig(learning_rate=0.5))
    with pytest.raises(UserError) as refused:
        workdir.claim(other)
    message = str(refused.value)
    assert "config.seed: 3 -> 4" in message
    assert "config.optimizer.learning_rate: 2e-05 -> 0.5" in message
    assert message.count("->") == 2
    assert str(workdir.path) in message
    assert workdir.config() == CONFIG


@pytest.mark.parametrize(
    "change",
    [
        {"mesh": MeshConfig(fsdp=4, cpu_devices=2)},
        {"checkpoint": CheckpointConfig(every=7, keep=1, best="success/seen")},
        {"loop": dataclasses.replace(CONFIG.loop, on_nonfinite="skip", max_nonfinite=3)},
        {"profiler": ProfilerConfig(first=7), "metrics": MetricsConfig(wandb="arms")},
    ],
)
def test_a_run_may_go_on_elsewhere(workdir, change):
    workdir.claim(CONFIG)
    other = dataclasses.replace(CONFIG, **change)
    workdir.claim(other)
    assert workdir.config() == other


def test_a_run_of_a_version_with_fewer_fields_goes_on(workdir):
    workdir.claim(CONFIG)
    path = workdir.path / "config.json"
    before = json.loads(path.read_text())
    del before["bins"]["kind"]
    path.write_text(json.dumps(before))
    workdir.claim(CONFIG)
    with pytest.raises(UserError, match=r"another run: config\.bins\.kind: uniform -> mu_law"):
        workdir.claim(dataclasses.replace(CONFIG, bins=BinsConfig(kind="mu_law")))


def test_the_length_of_a_run_is_part_of_it(workdir):
    workdir.claim(CONFIG)
    longer = dataclasses.replace(CONFIG.loop, steps=CONFIG.loop.steps + 1)
    with pytest.raises(UserError, match=r"holds another run: config\.loop\.steps"):
        workdir.claim(dataclasses.replace(CONFIG, loop=longer))


def test_a_run_may_go_on_with_other_threads_and_skip_what_is_damaged(workdir):
    workdir.claim(CONFIG)
    loader = dataclasses.replace(CONFIG.loader, threads=1, prefetch=1, on_corrupt="skip")
    other = dataclasses.replace(CONFIG, loader=loader)
    workdir.claim(other)
    assert workdir.config() == other
    with pytest.raises(UserError, match=r"another run: config\.seed: 3 -> 4\. Take"):
        workdir.claim(dataclasses.replace(CONFIG, seed=4))
    assert workdir.config() == other


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"expected a new or empty directory.*Take another"):
        Workdir(tmp_path).claim(CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="something else in the way"):
        Workdir(tmp_path / "run").claim(CONFIG)


def test_a_directory_without_a_run_has_no_config(workdir):
    with pytest.raises(UserError, match=r"expected a run .*found none.*vla-jax train"):
        workdir.config()


def test_a_damaged_config_is_named(workdir):
    workdir.claim(CONFIG)
    file = workdir.path / "config.json"
    file.write_text(file.read_text()[:100])
    for act in (workdir.config, lambda: workdir.claim(CONFIG)):
        with pytest.raises(UserError, match=r"config\.json: not JSON"):
            act()


def test_a_run_of_another_version_is_refused(workdir):
    workdir.claim(RunConfig())
    workdir.save_encoder(make_encoder())
    path = workdir.path / "policy.json"
    written = json.loads(path.read_text())
    del written["vocabulary"]
    path.write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"policy\.json: expected the field 'vocabulary'"):
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
