"""Numbers as robots log them when something is wrong: every check and every plot gets by."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from toy_recording import LENGTHS, actions, make

from vla_jax.data.doctor import actions as checks
from vla_jax.data.doctor import content, plots
from vla_jax.data.doctor.examination import _CHECKS


def changed(column, values):
    """Healthy actions with one column replaced; `values` is called with a generator and a count."""
    action = actions()
    action[:, column] = values(np.random.default_rng(0), len(action))
    return action


def at(row, column, value):
    action = actions()
    action[row, column] = value
    return action


HOSTILE = {
    "noise around an angle": changed(4, lambda rng, n: 1.569 + rng.normal(0, 2e-7, n)),
    "noise around zero": changed(4, lambda rng, n: rng.normal(0, 2e-7, n)),
    "noise around a large number": changed(4, lambda rng, n: 3e4 + rng.normal(0, 4e-3, n)),
    "a constant": changed(4, lambda rng, n: np.full(n, 1e30)),
    "denormal": changed(4, lambda rng, n: rng.normal(0, 1e-44, n)),
    "as large as float32 is": changed(4, lambda rng, n: rng.choice([-3e38, 3e38], n)),
    "one huge": at(3, 4, 1e38),
    "two opposite": at(slice(3, 5), 4, [-3e38, 3e38]),
    "one NaN": at(3, 1, np.nan),
    "one infinite": at(3, 1, -np.inf),
    "all NaN": np.full_like(actions(), np.nan),
    "all huge": np.full_like(actions(), 3e38),
    "a gripper of noise": changed(6, lambda rng, n: rng.normal(0, 1e-9, n)),
    "a huge gripper": changed(6, lambda rng, n: rng.choice([-3e38, 3e38], n)),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("known", [True, False])
def test_every_check_and_plot_gets_by(kind, known):
    action = HOSTILE[kind]
    stamp = np.where(np.arange(len(action)) % 7, np.inf, -np.inf).astype(np.float32)
    changes = {} if known else {"spec": None}
    # Frames are drawn alike whatever the numbers are.
    changes |= {"state": action, "arrays": {"steps/timestamp": stamp}, "cameras": ()}
    recording = make(action, **changes)
    findings = [check(recording) for check in _CHECKS]
    assert any(finding.severity != "ok" for finding in findings)
    assert all(0 <= finding.score <= 1 for finding in findings)
    if known and len(recording.rows):
        figure = Figure(figsize=(3, 1))
        left, right = figure.subplots(1, 2)
        plots._histogram(left, recording, 6 if "gripper" in kind else 4)
        plots._traces(right, recording, 6)
        figure.savefig(io.BytesIO())


@pytest.mark.parametrize("lengths", [(1,), (40,), (1, 1)])
def test_a_dataset_of_hardly_anything_gets_by(lengths):
    recording = make(lengths=lengths, cameras=())
    for check in _CHECKS:
        check(recording)
    assert plots._episodes(recording)


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind.startswith("noise")])
def test_a_dimension_of_float_noise_is_named_with_its_value(kind):
    finding = checks.dimensions(make(HOSTILE[kind]))
    assert finding.severity == "warning"
    assert "what float32 rounds" in finding.text
    assert "dpitch" in finding.text
    assert finding.score == pytest.approx(5 / 6)


def test_small_motion_is_no_noise():
    action = changed(4, lambda rng, n: 1.5 + rng.normal(0, 1e-4, n))
    assert checks.dimensions(make(action)).severity == "ok"


def test_a_number_that_nothing_measures_is_named_with_its_place():
    finding = checks.finite(make(state=at(LENGTHS[0] + 2, 1, -1e12)))
    assert finding.severity == "warning"
    assert "state is beyond 65504 at 1 steps, first at toy shard 0 episode 1 step 2" in finding.text


@pytest.mark.parametrize("blank", ["", " \n", "\u200b", "..."])
def test_an_instruction_that_nobody_can_read_is_none(blank):
    texts = {"steps/language": (np.arange(sum(LENGTHS)) % 2, ["pick it up", blank])}
    finding = content.language(make(texts=texts))
    assert finding.severity == "warning"
    assert "50% of the steps have no instruction" in finding.text
