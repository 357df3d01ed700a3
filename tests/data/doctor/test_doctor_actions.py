"""Each disease of an action is found, and a healthy action is left alone."""

import dataclasses

import numpy as np
import pytest
from toy_recording import LENGTHS, SPEC, actions, make

from vla_jax.data.doctor import actions as checks

CHECKS = (checks.finite, checks.dimensions, checks.outliers, checks.gripper, checks.idle)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_healthy_recording_is_ok(healthy, check):
    finding = check(healthy)
    assert (finding.severity, finding.score > 0.9) == ("ok", True), finding.text


def test_nan_names_episode_and_step():
    action = actions()
    action[LENGTHS[0] + 3, 1] = np.nan
    finding = checks.finite(make(action))
    assert finding.severity == "error"
    assert "action is NaN or infinite at 1 steps, first at toy shard 0 episode 1 step 3" in (
        finding.text
    )


def test_infinity_in_a_feature_that_is_not_the_action_is_a_warning():
    reward = np.zeros(sum(LENGTHS), np.float32)
    reward[5] = np.inf
    finding = checks.finite(make(arrays={"steps/reward": reward}))
    assert finding.severity == "warning"
    assert "steps/reward" in finding.text


def test_nan_in_a_step_that_is_not_trained_on_is_no_error():
    action, keep = actions(), np.ones(sum(LENGTHS), bool)
    action[0], keep[0] = np.nan, False
    assert checks.finite(make(action, keep=keep)).severity == "ok"


def test_a_constant_dimension_is_named_with_its_value():
    action = actions()
    action[:, 2] = 0.25
    finding = checks.dimensions(make(action))
    assert finding.severity == "warning"
    assert "dz = 0.25" in finding.text
    assert "dx" not in finding.text
    assert finding.score == pytest.approx(5 / 6)


def test_a_dimension_that_moves_too_rarely_for_the_quantiles_is_named():
    action = actions()
    action[:, 4] = 0
    action[7, 4] = 0.1
    finding = checks.dimensions(make(action))
    assert finding.severity == "warning"
    assert "q01 = q99" in finding.text
    assert "dpitch" in finding.text


def test_an_action_of_constants_is_an_error():
    assert checks.dimensions(make(np.ones_like(actions()))).severity == "error"


def test_a_recording_without_any_action_is_an_error():
    nothing = make(np.zeros((sum(LENGTHS), 0), np.float32), names=(), spec=None)
    assert checks.dimensions(nothing).severity == "error"
    for check in CHECKS:
        check(nothing)


def test_a_wild_value_is_named_with_its_place():
    action = actions()
    action[2, 0] = -0.9
    finding = checks.outliers(make(action))
    assert finding.severity == "warning"
    assert "dx is -0.9 at toy shard 0 episode 0 step 2" in finding.text
    assert finding.numbers["dx"] > 10 > finding.numbers["dy"]
    assert finding.score == pytest.approx(1 - 1 / sum(LENGTHS))


def test_leaving_the_bounds_of_the_adapter_is_found():
    action = actions()
    action[:, 3] *= 100  # 10 rad, the bound is pi
    finding = checks.outliers(make(action))
    assert finding.severity == "warning"
    assert "droll leaves the adapter's -3.142..3.142" in finding.text


def test_a_gripper_out_of_range_is_an_error():
    action = actions()
    action[:, 6] = action[:, 6] * 2 - 1
    finding = checks.gripper(make(action))
    assert finding.severity == "error"
    assert "gripper leaves 0..1" in finding.text
    assert "(-1..1)" in finding.text


def test_an_inverted_gripper_is_suspected():
    action = actions()
    action[:, 6] = 1 - action[:, 6]
    finding = checks.gripper(make(action))
    assert finding.severity == "warning"
    assert "closed at the start of 100% of the episodes" in finding.text
    spec = dataclasses.replace(SPEC, gripper="0 open, 1 closed")
    assert checks.gripper(make(action, spec=spec)).severity == "ok"


def test_a_gripper_that_never_toggles_is_found():
    action = actions()
    action[:, 6] = 1
    finding = checks.gripper(make(action))
    assert finding.severity == "warning"
    assert "never toggles: it stays above" in finding.text


def test_a_chattering_gripper_is_found():
    action = actions()
    action[:, 6] = np.arange(len(action)) % 2
    finding = checks.gripper(make(action))
    assert finding.severity == "warning"
    assert "chatters" in finding.text


def test_toggles_are_counted_inside_episodes_only():
    assert checks.gripper(make()).numbers == {"gripper toggles": 1.0}


def test_without_an_adapter_the_gripper_is_found_by_name():
    action = actions()
    names = (*SPEC.names[:6], "gripper_closedness_action")
    finding = checks.gripper(make(action, names=names, spec=None))
    assert finding.numbers == {"gripper_closedness_action toggles": 1.0}


@pytest.mark.parametrize(("share", "severity"), [(0.1, "ok"), (0.3, "note"), (0.7, "warning")])
def test_idle_frames_are_counted(share, severity):
    action = actions()
    still = np.random.default_rng(1).random(len(action)) < share
    action[still, :6] = 0
    finding = checks.idle(make(action))
    assert finding.severity == severity
    assert finding.numbers["idle"] == pytest.approx(share, abs=0.1)


def test_a_step_that_only_moves_the_gripper_is_not_idle():
    action = actions()
    action[:, :6] = 0
    action[0, :6] = 0.01
    action[:, 6] = np.arange(len(action)) % 2
    assert checks.idle(make(action)).numbers["idle"] < 0.1


def test_absolute_targets_are_idle_when_they_do_not_change():
    action = actions()
    action[:, :6] = np.repeat(action[::4, :6], 4, axis=0)[: len(action)] + 5
    spec = dataclasses.replace(SPEC, units=(*("metres",) * 3, *("radians",) * 3, "0..1"))
    assert checks.idle(make(action, spec=spec)).numbers["idle"] == pytest.approx(0.75, abs=0.05)
