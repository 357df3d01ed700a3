"""One small run, trained straight and trained in pieces: the same run, to the last bit."""

import dataclasses
import json
import os
import pathlib
import runpy
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from vla_jax.core import config as config_lib
from vla_jax.core import trees
from vla_jax.core.errors import Preempted, UserError
from vla_jax.data.episodes import Episodes
from vla_jax.data.mixture import RobotConfig
from vla_jax.data.robots.tabletop import MAX_STEP, TABLETOP
from vla_jax.envs.tabletop import world
from vla_jax.envs.tabletop.answers import KINDS
from vla_jax.eval import record
from vla_jax.experiment import finish, hooks, parts, sources, training
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import Workdir
from vla_jax.runtime import chips, mesh, metrics
from vla_jax.runtime.checkpoint import Checkpoints

STEPS = 6


class KilledError(Exception):
    """Stands for a machine that goes away."""


def make_config(data_dir):
    """The tiny run, half as long."""
    c = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny_run.py")))["get_config"]()
    c.data_dir = str(data_dir)
    # Every second step a line as well: a mean is over the steps since the last one.
    c.checkpoint.update(best="held_out/loss/tabletop", best_is="low")
    c.loop.update(steps=STEPS, log_every=2, eval_every=3)
    return config_lib.build(RunConfig, c)


class Interrupted:
    """A loader that does something before it hands out a batch."""

    def __init__(self, loader, start, batch, act):
        self._loader, self._next, self._batch, self._act = loader, start, batch, act
        self.state, self.predicted_ram = loader.state, loader.predicted_ram
        self.skipped = loader.skipped

    def __iter__(self):
        return self

    def __next__(self):
        if self._next == self._batch:
            self._act()
        self._next += 1
        return next(self._loader)


def interrupt(monkeypatch, batch, act):
    make = parts.make_loader

    def make_interrupted(config, sources, encoder, start, part):
        return Interrupted(make(config, sources, encoder, start, part), start, batch, act)

    monkeypatch.setattr(parts, "make_loader", make_interrupted)


def kill():
    raise KilledError


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_config(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    """A workdir trained and evaluated without a break."""
    workdir = Workdir(tmp_path_factory.mktemp("straight") / "run")
    trained = training.train(config, workdir)
    finish.finish(config, workdir, trained.policies, trained.data, trained.summary)
    return workdir


@pytest.fixture(scope="module")
def in_pieces(config, straight, tmp_path_factory):
    """A workdir stopped after step 3, killed in step 5 behind the checkpoint of step 4, resumed.

    At step 3 a measurement is due, and half of a line of metrics is there.
    """
    workdir = Workdir(tmp_path_factory.mktemp("pieces") / "run")
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted, match=rf"stopped at step 3 of {STEPS}, saved"):
            training.train(config, workdir)
    assert [row["step"] for row in metrics.read(workdir.path)] == [2]
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 5, kill)
        with pytest.raises(KilledError):
            training.train(config, workdir)
    assert [row["step"] for row in metrics.read(workdir.path)] == [2, 3, 4]
    assert training.train(config, workdir).summary["steps"] == STEPS
    return workdir


def arrays_of(config, workdir):
    encoder = workdir.load_encoder()
    model = parts.Model(config, encoder.tokenizer.size, mesh.make_mesh(config.mesh))
    abstract = model.abstract_state()
    wanted = {"params": abstract.params, "optimizer": abstract.optimizer, "step": abstract.step}
    with Checkpoints(workdir.checkpoints) as checkpoints:
        step, arrays, _ = checkpoints.restore(wanted)
    assert step == STEPS
    return trees.named_leaves(jax.device_get(arrays))


def lines_of(workdir):
    rows = metrics.read(workdir.path)
    measured = ("seconds", "speed/", "memory/")
    return [{k: v for k, v in row.items() if not k.startswith(measured)} for row in rows]


def test_a_resumed_run_has_the_same_parameters_and_optimizer(config, straight, in_pieces):
    expected, found = arrays_of(config, straight), arrays_of(config, in_pieces)
    assert expected.keys() == found.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)


def test_a_resumed_run_has_the_same_metrics(straight, in_pieces):
    expected, found = lines_of(straight), lines_of(in_pieces)
    assert [row["step"] for row in expected] == [2, 3, 4, 6]
    assert found == expected
    sources = ("tabletop", "tabletop_questions")
    names = {f"{m}/{name}" for m in ("loss", "accuracy", "share") for name in sources}
    names |= {"error/tabletop/dx", "error/tabletop/gripper"}
    names |= {"illegal/tabletop", "illegal/tabletop/terminate"}
    assert names | {"loss", "gradient_norm", "learning_rate"} <= set(expected[0])
    held_out = {"held_out/loss/tabletop", "held_out/accuracy/tabletop_questions"}
    held_out |= {"held_out/error/tabletop/dy", "held_out/illegal/tabletop"}
    assert held_out | {"success/seen"} <= set(expected[1])


def test_a_line_says_how_fast_the_run_is(straight, in_pieces):
    for workdir in (straight, in_pieces):
        rows = [row for row in metrics.read(workdir.path) if "loss" in row]
        for row in rows:
            assert row["speed/step_ms"] >= row["speed/input_wait_ms"] >= 0
            assert row["speed/samples"] > 0
            assert row["speed/tokens"] > 0
            assert 0.1 < row["memory/host"] < 20


def test_time_goes_on_over_a_resumption(in_pieces):
    seconds = [row["seconds"] for row in metrics.read(in_pieces.path) if "seconds" in row]
    assert len(seconds) == 3
    assert 0 < seconds[0] < seconds[1] < seconds[2]


def test_a_finished_run_does_not_train_again(config, straight, monkeypatch):
    before = straight.path.joinpath("metrics.jsonl").read_text()
    arrays = arrays_of(config, straight)
    interrupt(monkeypatch, STEPS, kill)
    trained = training.train(config, straight)
    assert trained.summary["steps"] == STEPS
    assert straight.path.joinpath("metrics.jsonl").read_text() == before
    for name, leaf in trees.named_leaves(trained.policies["tabletop"].params).items():
        np.testing.assert_array_equal(leaf, arrays[f"params/{name}"])


def test_the_results_have_the_documented_form(config, straight):
    results = json.loads(straight.results.read_text())
    tasks = config.tabletop.demonstrations.tasks
    assert set(results) == {
        *("success", "wrong_block", "vqa", "open_loop", "quantisation", "latency"),
        *("train", "environment", "film", "code"),
    }
    assert set(results["success"]) == {
        name for split in world.SPLITS[:6] for name in (split, *(f"{split}/{t}" for t in tasks))
    }
    assert set(results["wrong_block"]) == set(world.SPLITS[:6])
    assert results["vqa"]
    assert set(results["vqa"]) <= set(KINDS)
    assert results["latency"]["decode_ms"] > 0
    assert 0 < results["quantisation"]["dx"] < 1.01 * MAX_STEP / 256  # half a bin
    for table in ("success", "wrong_block", "vqa"):
        for rate in results[table].values():
            assert set(rate) == {"rate", "low", "high", "episodes"}
            assert 0 <= rate["low"] <= rate["rate"] <= rate["high"] <= 1
    assert results["success"]["seen"]["episodes"] == config.evaluation.episodes
    assert sum(rate["episodes"] for rate in results["vqa"].values()) == 12
    assert set(results["train"]) == {"steps", "seconds", "samples_per_s"}
    assert results["train"]["steps"] == STEPS
    assert results["train"]["samples_per_s"] > 0
    names = TABLETOP.spec.names
    assert set(results["open_loop"]) == {
        *("token_accuracy", "nll", "illegal"),
        *(f"{m}/{n}" for m in ("error", "token_accuracy", "nll", "illegal") for n in names),
    }


def test_every_episode_has_a_record(config, straight):
    results = json.loads(straight.results.read_text())
    records = record.read(straight.path / record.FILE)
    assert len(records) == config.evaluation.episodes * len(config.evaluation.splits)
    seen = [r.success for r in records if r.split == "seen"]
    assert results["success"]["seen"]["rate"] == pytest.approx(np.mean(seen), abs=1e-4)
    assert len(results["film"]) == config.evaluation.film
    assert results["environment"]["digest"]


def test_a_run_leaves_a_report_that_needs_nothing_else(straight):
    page = straight.report.read_text()
    assert "data:video/webm;base64," in page
    assert "Ledger of the mixture" in page
    assert "tabletop_questions" in page
    assert "config.loop.steps" in page
    assert "new_colour" in page
    assert "<svg" in page


@pytest.mark.slow
def test_a_browser_shows_the_whole_report(straight, screenshot):
    pixels = screenshot(straight.report, width=1200, height=6000)
    background = pixels[-1, 2]
    rows = (pixels != background).any(axis=(1, 2))
    assert 2500 < np.flatnonzero(rows).max() < 5900  # all sections, and the end of the page
    empty = np.diff(np.flatnonzero(rows))
    assert empty.max() < 250  # no hole where a chart or the film did not load
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000  # the film is there, in colour


def test_a_run_leaves_its_pictures_and_its_configuration(config, straight):
    assert straight.config() == config
    with Image.open(straight.curves) as picture:
        assert picture.format == "PNG"
    with Image.open(straight.episodes) as film:
        assert film.format == "GIF"
        assert film.n_frames > 1


def test_the_newest_checkpoints_and_the_best_evaluated_one_stay(straight):
    with Checkpoints(straight.checkpoints) as checkpoints:
        assert checkpoints.latest_step() == STEPS
    names = {path.name for path in straight.checkpoints.iterdir() if path.name.isdigit()}
    assert names == {"3", "4", "6"}


def test_a_best_checkpoint_by_what_nobody_measures_is_refused_at_the_start(config, tmp_path):
    by_what = dataclasses.replace(config.checkpoint, best="success/seem")
    with pytest.raises(UserError, match=r"best=success/seem: .*The nearest is 'success/seen'"):
        training.train(dataclasses.replace(config, checkpoint=by_what), Workdir(tmp_path / "run"))


# The tabletop with a state as large as its world tells: what can carry a NaN to the loss.
STATEFUL = dataclasses.replace(
    TABLETOP,
    name="stateful",
    state=lambda columns: columns["steps/action"][:, 1:],
    state_names=TABLETOP.spec.names[1:],
)


def test_an_example_that_is_no_number_is_named_and_skipped_on_demand(
    config, tmp_path, monkeypatch, capsys
):
    robots = {"tabletop": RobotConfig(adapter=f"{__name__}:STATEFUL")}
    config = dataclasses.replace(
        config,
        mixture=dataclasses.replace(config.mixture, name=None, robots=robots),
        model=dataclasses.replace(config.model, state=7),
    )
    data = sources.open_data(config, lambda *_: None)
    encoder = parts.make_encoder(config, data)
    batch, places = parts.make_loader(config, data.sources, encoder).again(4)
    row = int(np.flatnonzero(batch.source == 0)[1])
    read = Episodes.example

    def poisoned(self, i, draw=0):
        example = read(self, i, draw)
        if self.place(i) == places[row]:
            return dataclasses.replace(example, state=np.full(7, np.nan, np.float32))
        return example

    monkeypatch.setattr(Episodes, "example", poisoned)
    monkeypatch.setattr(hooks.chips, "of", lambda device: chips.CHIPS["v5e"])
    workdir = Workdir(tmp_path / "run")
    with pytest.raises(UserError, match=rf"step 5: the loss is nan, from {places[row]}; the batch"):
        training.train(config, workdir)
    with np.load(workdir.nonfinite / "5.npz") as kept:
        assert np.flatnonzero(~np.isfinite(kept["example_loss"])).tolist() == [row]
        np.testing.assert_array_equal(kept["tokens"], batch.tokens)
        np.testing.assert_array_equal(kept["images"], batch.images)
        assert kept["place"].tolist() == places
    skipping = dataclasses.replace(config.loop, on_nonfinite="skip")
    trained = training.train(dataclasses.replace(config, loop=skipping), workdir)
    assert trained.summary["steps"] == STEPS
    assert places[row] in capsys.readouterr().out
    (last,) = [row for row in metrics.read(workdir.path) if row["step"] == STEPS]
    assert (last["skipped_steps"], last["steps_averaged"]) == (1, 1)
    assert 0 < last["speed/useful_mfu"] < last["speed/mfu"] < 1e-3  # on a CPU
    for leaf in jax.tree.leaves(trained.policies["tabletop"].params):
        assert np.isfinite(leaf).all()
