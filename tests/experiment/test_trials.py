"""Fixed episodes with the scripted expert in place of a model."""

import dataclasses

import msgspec
import numpy as np
import pytest

from vla_jax.core.errors import UserError
from vla_jax.envs import table
from vla_jax.envs.tabletop.expert import expert_action
from vla_jax.experiment import evaluation, trials
from vla_jax.experiment.config import EvaluationConfig, RunConfig
from vla_jax.experiment.trials import Trials
from vla_jax.runtime import progress

TABLETOP = table.find("tabletop")


class Expert:
    """Finds the scene that an image shows among its own environments; is lazy on some tasks."""

    history, views = 1, ("primary",)

    def __init__(self, lazy=(), forgetful=False):
        self.envs, self.lazy, self.forgetful = [], lazy, forgetful

    @property
    def observer(self):
        return self

    def environment(self):
        def make(**options):
            self.envs.append(TABLETOP.make(**options))
            return self.envs[-1]

        return dataclasses.replace(TABLETOP, make=make)

    def look(self, images, state):
        return images["primary"][-1]

    def act_batch(self, images, instructions):
        actions = []
        for image in images:
            env = next(
                env
                for env in reversed(self.envs)
                if env._scene is not None and np.array_equal(env._observe()["image"], image)
            )
            is_lazy = env.scene.task in self.lazy or (self.forgetful and env.render_mode)
            actions.append([expert_action(env) * (0 if is_lazy else 1)])
        return np.array(actions, np.float32), None


def wanted(expert, count=6, slots=4, splits=("seen", "synonym")):
    return Trials(
        environment=expert.environment(),
        episodes={split: TABLETOP.episodes(split, count) for split in splits},
        image_size=32,
        slots=slots,
    )


def results(slots=4, film=0, **options):
    expert = Expert(**options)
    return evaluation.drive(wanted(expert, slots=slots), expert, film)


@pytest.fixture(scope="module")
def lazy():
    return results(film=4, lazy=("near",))


@pytest.mark.parametrize("slots", [1, 5])
def test_fixed_episodes_give_the_same_results_twice_and_in_any_number_of_slots(lazy, slots):
    again = results(slots=slots, lazy=("near",))
    assert again.records == lazy.records
    assert again.environment == lazy.environment


def test_rates_are_per_split_and_task(lazy):
    rates = lazy.success
    assert {name: rate.episodes for name, rate in rates.items()} == {
        "seen": 6,
        "seen/pick": 2,
        "seen/side": 2,
        "seen/near": 2,
        "synonym": 6,
        "synonym/pick": 2,
        "synonym/side": 2,
        "synonym/near": 2,
    }
    assert (rates["seen"].rate, rates["seen/near"].rate, rates["seen/pick"].rate) == (2 / 3, 0, 1)
    assert {split: rate.episodes for split, rate in lazy.wrong_block.items()} == {
        "seen": 6,
        "synonym": 6,
    }


def test_half_of_the_film_are_failures_and_the_splits_take_turns(lazy):
    filmed = [(split, outcome.success) for split, outcome in lazy.filmed]
    assert filmed == [("seen", True), ("synonym", True), ("seen", False), ("synonym", False)]
    assert all(len(outcome.images) == outcome.steps + 1 for _, outcome in lazy.filmed)
    values = lazy.to_json()["film"]
    assert [entry["success"] for entry in values] == [True, True, False, False]


def test_a_film_of_successes_alone_is_as_long():
    filmed = results(film=3).filmed
    assert [outcome.success for _, outcome in filmed] == [True] * 3


def test_the_fingerprint_is_that_of_environment_and_episodes(lazy):
    expert = Expert()
    others = {
        "size": dataclasses.replace(wanted(expert), image_size=16),
        "episodes": wanted(expert, count=5),
        "splits": wanted(expert, splits=("seen", "new_shape")),
    }
    digests = {lazy.environment["digest"]}
    for other in others.values():
        digests.add(evaluation.drive(other, expert, 0).environment["digest"])
    assert len(digests) == 4
    assert lazy.environment["name"] == "tabletop"
    assert "numpy" in lazy.environment["versions"]


def test_an_episode_that_goes_differently_the_second_time_is_named(monkeypatch):
    notes = []
    monkeypatch.setattr(progress, "note", notes.append)
    results(film=2, forgetful=True)
    assert any("went differently the second time" in note for note in notes)


def test_a_view_that_the_environment_lacks_is_refused():
    expert = Expert()
    expert.views = ("primary", "wrist")
    with pytest.raises(UserError, match="environment tabletop: no view wrist: expected a policy"):
        wanted(expert).play(expert)


def test_a_run_asks_for_its_own_tasks_and_blocks():
    config = RunConfig(evaluation=EvaluationConfig(blocks=(3, 3), splits=("seen", "symbol")))
    found = Trials.of_run(config, 6)
    assert list(found.episodes) == ["seen", "symbol"]
    assert {e.options["blocks"] for e in found.episodes["seen"]} == {(3, 3)}
    tasks = {split: [e.options["task"] for e in es] for split, es in found.episodes.items()}
    assert tasks == {"seen": ["pick", "side", "near"] * 2, "symbol": ["side"] * 6}
    assert (found.image_size, found.slots) == (64, 50)


def test_an_environment_that_tells_of_no_blocks_has_no_such_rate(lazy):
    silent = [msgspec.structs.replace(record, info={}) for record in lazy.records]
    assert trials.wrong_block(silent) == {}
