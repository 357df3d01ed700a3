"""Two robots and web questions, each in its dataset's real schema, co-fine-tuned end to end."""

import io
import json
import pathlib
import runpy

import generate
import numpy as np
import pytest
from question_files import picture

from vla_jax.core import config as config_lib
from vla_jax.data import records
from vla_jax.experiment import exporting, finish, load, sources, training
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import Workdir
from vla_jax.runtime import metrics

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "bridge_fractal.py"
ROBOTS = ("bridge_orig", "fractal20220817_data")


def write_questions(directory):
    tfds = records.import_tfds()
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "question_text": tfds.features.Text(),
        "answer_type": tfds.features.Text(),
        "answers": tfds.features.Sequence(tfds.features.Text()),
    }

    def rows(count, first):
        for i in range(first, first + count):
            yield {
                "image": io.BytesIO(picture(i)),
                "question_text": f"how many cups are there, {i % 5}",
                "answer_type": "number",
                "answers": [str(i % 5), "some"],
            }

    directory.mkdir(parents=True)
    records.write_dataset(
        directory,
        name="vqav2",
        features=tfds.features.FeaturesDict(features),
        splits={"train": (rows(24, 0), 24), "validation": (rows(8, 24), 8)},
        examples_per_shard=8,
        version="1.0.0",
        description="Questions in the fields of VQAv2.",
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(ROBOTS):
        drawn = generate.draw(name, lengths=(9, 7, 12, 8), seed=seed)
        generate.write(drawn, root / name / "1.0.0", name)
    write_questions(root / "vqav2" / "1.0.0")
    c = runpy.run_path(str(CONFIG))["get_config"]("tiny")
    c.data_dir = str(root)
    return config_lib.build(RunConfig, c)


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    workdir = Workdir(tmp_path_factory.mktemp("run") / "run")
    run = training.train(config, workdir)
    finish.finish(config, workdir, run.policies, run.data, run.summary)
    return workdir


def test_every_source_is_trained_on_and_measured(config, trained):
    names = (*ROBOTS, "vqav2")
    rows = metrics.read(trained.path)
    last = [row for row in rows if "loss" in row][-1]
    assert last["step"] == config.loop.steps
    assert {f"loss/{name}" for name in names} <= set(last)
    assert sum(last[f"share/{name}"] for name in names) == pytest.approx(1)
    assert last["share/vqav2"] == pytest.approx(0.5)
    held_out = [row for row in rows if "held_out/loss/vqav2" in row][-1]
    assert {f"held_out/loss/{name}" for name in names} <= set(held_out)
    assert not any(name.startswith("success/") for row in rows for name in row)


def test_the_results_tell_the_robots_apart(trained):
    results = json.loads(trained.results.read_text())
    for robot in ROBOTS:
        assert {f"{robot}/error/dx", f"{robot}/error/gripper"} <= set(results["open_loop"])
    assert set(results["vqa"]) == {"number"}
    assert results["success"] == {}
    assert not trained.episodes.exists()


def test_each_robot_acts_in_its_own_units(config, trained):
    run = load.open_run(trained)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3), np.uint8)
    statistics = run.encoder.actions
    for name, views in (
        ("bridge_orig", {"primary": image, "secondary": image}),
        ("fractal20220817_data", {"primary": image}),
    ):
        action = run.policy(name).act(views, "pick up the can")
        low, high = statistics[name].statistics.q01, statistics[name].statistics.q99
        ranged = slice(0, 6)
        assert action.values.shape == (1, 7)
        assert (action.values[0, ranged] >= np.array(low)[ranged] - 1e-6).all()
        assert (action.values[0, ranged] <= np.array(high)[ranged] + 1e-6).all()


def test_a_run_of_several_robots_asks_which(trained):
    with pytest.raises(Exception, match=r"expected one of bridge_orig, fractal20220817_data"):
        load.open_run(trained).policy()


def test_each_robot_is_exported_with_its_own_statistics(trained, tmp_path):
    pytest.importorskip("torch")
    for robot in ROBOTS:
        report = exporting.export(trained, tmp_path / robot, robot)
        assert report.source == "held-out frames"
        assert report.measured["float32"]["tokens"] == 64 * 7
        assert report.measured["float32"]["wrong_tokens"] == 0
    found = {r: json.loads((tmp_path / r / "policy.json").read_text()) for r in ROBOTS}
    assert found["bridge_orig"]["views"] == ["primary", "secondary"]
    assert found["fractal20220817_data"]["views"] == ["primary"]
    assert found["bridge_orig"]["statistics"] != found["fractal20220817_data"]["statistics"]


def test_what_is_not_there_is_named_with_where_it_was_looked_for(config):
    changed = config_lib.to_json(config)
    changed["data_dir"] = "no/such/place"
    changed = config_lib.build(RunConfig, changed)
    with pytest.raises(Exception, match=r"dataset 'bridge_orig'.*no/such/place/bridge_orig.*dir="):
        sources.open_data(changed, lambda *_: None)


@pytest.mark.parametrize("images", [pytest.param("first", marks=pytest.mark.slow), "inline"])
def test_history_state_and_chunks_are_trained_on_and_acted_on(config, tmp_path, images):
    tree = config_lib.to_json(config)
    tree["loader"].update(history=2, chunk=2)
    tree["model"].update(state=9, images=images)
    tree["sequence"]["suffix"] = 15
    tree["loop"].update(steps=2, log_every=1, eval_every=1)
    if images == "inline":
        tree["prompts"] = {"robot": "palme", "web": "palme"}
        tree["sequence"]["prefix"] = 100
    changed = config_lib.build(RunConfig, tree)
    workdir = Workdir(tmp_path / "run")
    training.train(changed, workdir)
    rows = metrics.read(workdir.path)
    assert np.isfinite([row["loss"] for row in rows if "loss" in row]).all()
    assert any("held_out/loss/bridge_orig" in row for row in rows)
    policy = load.open_run(workdir).policy("bridge_orig")
    rng = np.random.default_rng(0)
    views = {
        view: list(rng.integers(0, 256, (2, 64, 64, 3), np.uint8))
        for view in ("primary", "secondary")
    }
    middle = np.mean([policy.encoder.states["bridge_orig"].q01] * 2, axis=0)
    first = policy.act(views, "pick up the can", middle)
    assert first.values.shape == (2, 7)
    with pytest.raises(Exception, match=r"observation state: expected \d+ numbers .* found none"):
        policy.act(views, "pick up the can")
    with pytest.raises(Exception, match="1 to 2 steps"):
        policy.act({view: [*steps, *steps] for view, steps in views.items()}, "pick", middle)


def test_prompts_must_fit_where_the_images_stand(config):
    tree = config_lib.to_json(config)
    tree["model"]["images"] = "inline"
    with pytest.raises(Exception, match=r"config\.prompts\.robot.*palme.*found rt2"):
        config_lib.build(RunConfig, tree)
