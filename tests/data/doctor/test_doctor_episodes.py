"""Lengths, flags, copies and pace of episodes."""

import numpy as np
import pytest
from toy_recording import LENGTHS, actions, make, png

from vla_jax.data.doctor import episodes as checks

COUNT = sum(LENGTHS)
FIRST = np.concatenate([np.arange(n) == 0 for n in LENGTHS])
LAST = np.concatenate([np.arange(n) == n - 1 for n in LENGTHS])
FLAGS = {"steps/is_first": FIRST, "steps/is_last": LAST, "steps/is_terminal": LAST}
CLOCK = "steps/observation/timestamp"
CHECKS = (checks.lengths, checks.flags, checks.duplicates, checks.control_rate)


def flags(**changes):
    return FLAGS | {f"steps/{name}": values for name, values in changes.items()}


def clock(step):
    return {CLOCK: np.concatenate([np.arange(n) * step for n in LENGTHS]).astype(np.float64)}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_healthy_recording_is_ok(check):
    finding = check(make(arrays=FLAGS | clock(0.2)))
    assert (finding.severity, finding.score) == ("ok", 1.0), finding.text


def test_lengths_are_measured():
    assert checks.lengths(make()).numbers == {"shortest": 18, "median": 29, "longest": 40}


def test_short_episodes_are_named():
    finding = checks.lengths(make(lengths=(20, 1, 20, 2)))
    assert finding.severity == "warning"
    assert "episode 1 step 0" in finding.text
    assert "episode 3 step 0" in finding.text
    assert finding.score == 0.5


def test_a_very_long_episode_is_noted():
    finding = checks.lengths(make(lengths=(20, 20, 20, 500)))
    assert finding.severity == "note"
    assert "episode 3 step 0" in finding.text


@pytest.mark.parametrize("name", ["is_first", "is_last", "is_terminal"])
def test_a_wrong_flag_is_named_with_its_place(name):
    wrong = FLAGS[f"steps/{name}"].copy()
    wrong[LENGTHS[0] + 5] = True
    finding = checks.flags(make(arrays=flags(**{name: wrong})))
    assert finding.severity == "warning"
    assert f"{name} is wrong at 1 steps, first at toy shard 0 episode 1 step 5" in finding.text


def test_it_says_how_many_episodes_are_terminal():
    finding = checks.flags(make(arrays=flags(is_terminal=np.zeros(COUNT, bool))))
    assert finding.severity == "ok"
    assert "0% of the episodes end in is_terminal" in finding.text


def test_no_flags_are_no_fault():
    assert checks.flags(make()).severity == "ok"


def repeated():
    """Episode 3 has the actions of episode 0."""
    lengths = (*LENGTHS[:3], LENGTHS[0], *[20] * 16)
    action = actions(lengths)
    start = sum(lengths[:3])
    action[start : start + lengths[0]] = action[: lengths[0]]
    return action, lengths


def test_a_copied_episode_is_named():
    action, lengths = repeated()
    finding = checks.duplicates(make(action, lengths=lengths, image=lambda camera, i: png(9)))
    assert finding.severity == "warning"
    assert "episode 3 repeats 0" in finding.text
    assert finding.score == 1 - 1 / 20


def test_the_same_actions_before_another_picture_are_no_copy():
    action, lengths = repeated()
    assert checks.duplicates(make(action, lengths=lengths)).severity == "ok"


def test_many_copies_are_an_error():
    action = np.tile(actions((20,)), (5, 1))
    finding = checks.duplicates(make(action, lengths=(20,) * 5, image=lambda camera, i: png(9)))
    assert (finding.severity, finding.score) == ("error", pytest.approx(0.2))


@pytest.mark.parametrize("scale", [1, 1e3, 1e9])
def test_the_rate_is_measured_in_any_unit(scale):
    finding = checks.control_rate(make(arrays=clock(0.2 * scale)))
    assert (finding.severity, finding.numbers["hertz"]) == ("ok", pytest.approx(5))


def test_another_rate_than_declared_is_a_warning():
    finding = checks.control_rate(make(arrays=clock(0.1)))
    assert finding.severity == "warning"
    assert "10 Hz" in finding.text
    assert "declares 5 Hz" in finding.text


def test_a_clock_that_steps_back_is_named():
    values = clock(0.2)
    values[CLOCK][10] = 0.1
    finding = checks.control_rate(make(arrays=values))
    assert finding.severity == "note"
    assert "does not advance" in finding.text
    assert "episode 0 step 10" in finding.text


def test_a_clock_that_stands_is_noted():
    assert checks.control_rate(make(arrays=clock(0.0))).severity == "note"


def test_without_a_clock_the_declared_rate_is_spelled_out():
    finding = checks.control_rate(make())
    assert finding.severity == "ok"
    assert "at the declared 5 Hz a median episode of 29 steps lasts 5.8 s" in finding.text
