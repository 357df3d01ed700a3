"""Actions that are more than bins, from generated data to acting: FAST chunks behind plans."""

import json

import numpy as np
import pytest
import tiny_run

from vla_jax.core import config as config_lib
from vla_jax.experiment import exporting, finish, load, training
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import Workdir
from vla_jax.runtime import metrics

pytestmark = pytest.mark.slow  # trains


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    c = tiny_run.get_config()
    c.data_dir = str(tmp_path_factory.mktemp("data"))
    c.tabletop.demonstrations.update(tasks=("pick", "two_stage"), plans=True)
    c.prompts.plan = "expert"
    c.action_tokens.update(scheme="fast", initialization="mean")
    c.action_tokens.fast.size = 300
    c.loader.chunk = 4
    c.sequence.update(prefix=64, suffix=80, plan=30)
    c.loop.update(steps=4, eval_every=2)
    config = config_lib.build(RunConfig, c)
    workdir = Workdir(tmp_path_factory.mktemp("run") / "run")
    run = training.train(config, workdir)
    finish.finish(config, workdir, run.policies, run.data, run.summary)
    return workdir, run


def test_a_policy_says_a_plan_and_acts_for_a_whole_chunk(trained):
    workdir, run = trained
    image = np.zeros((16, 16, 3), np.uint8)
    instruction = "move the red cube to the left then pick up the blue star"
    before, after = (
        policy.act({"primary": image}, instruction)
        for policy in (run.policies["tabletop"], load.open_run(workdir).policy())
    )
    assert before.values.shape == (4, 8)
    assert set(before.values[:, 0]) <= {0.0, 1.0}
    assert isinstance(before.plan, str)
    # The tokens of the directory are those of the training.
    np.testing.assert_array_equal(before.tokens, after.tokens)
    np.testing.assert_array_equal(before.values, after.values)
    assert before.plan == after.plan


def test_examples_of_training_say_their_plan(trained):
    _, run = trained
    encoder, episodes = run.policies["tabletop"].encoder, run.data.robots["tabletop"]
    example = episodes.example(5)
    row, _, mask = encoder.encode(example)
    words, string = encoder.split(row[encoder.layout.prefix :])
    assert encoder.tokenizer.decode(words.tolist()) == example.plan
    assert example.plan.split()[0] in ("pick", "move")
    back = encoder.actions["tabletop"].read(string)
    low, high = encoder.actions["tabletop"].bounds
    assert (np.abs(back - example.action) <= 0.1 * (high - low) + 1e-6)[:, 1:].all()
    assert mask[encoder.layout.prefix :].sum() == np.count_nonzero(row[encoder.layout.prefix :])


def test_what_is_measured_is_what_such_tokens_have(trained):
    workdir, _ = trained
    names = set().union(*metrics.read(workdir.path))
    assert {"illegal/tabletop", "held_out/illegal/tabletop"} <= names
    assert not [name for name in names if "error/tabletop" in name]
    results = json.loads(workdir.results.read_text())
    assert set(results["success"]) >= {"seen", "seen/two_stage"}
    assert {"error/dx", "token_accuracy", "nll"} <= set(results["open_loop"])
    assert 0 < results["quantisation"]["dx"] < 0.005


def test_an_export_of_them_writes_and_acts_the_same(trained, tmp_path):
    workdir, _ = trained
    report = exporting.export(workdir, tmp_path / "out")
    assert report.measured["float32"]["wrong_tokens"] == 0
    assert report.measured["float32"]["failures"] == []
