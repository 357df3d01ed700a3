"""What the gate lets pass, and what it says of the rest."""

import numpy as np
import pytest
import selftest

from vla_jax.core.errors import UserError
from vla_jax.policy.export import description, gate, native

GOOD = {
    "prompts": 64,
    "wrong_prompts": 0,
    "wrong_inputs": 0,
    "wrong_tokens": 0,
    "logits_max": 9e-6,
    "actions_max": 9e-7,
}


def report(**dtypes):
    return {"measured": dtypes}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("wrong_prompts", 1),
        ("wrong_inputs", 1),
        ("wrong_tokens", 1),
        ("logits_max", 1.1e-5),
        ("logits_max", float("nan")),
        ("actions_max", 1.1e-6),
    ],
)
def test_each_tolerance_is_held(name, value):
    limits = description.PARITY["float32"]
    assert selftest.judge(GOOD, limits) == []
    (line,) = selftest.judge(GOOD | {name: value}, limits)
    assert line.startswith(name)


def test_the_gate_wants_every_dtype_and_64_prompts():
    good, rough = GOOD | {"failures": []}, {"prompts": 64, "failures": ["logits_rms 0.03"]}
    assert gate.failures(report(float32=good), "float32") == []
    assert gate.failures(report(float32=good, float16=rough), "float16") == [
        "float16: logits_rms 0.03"
    ]
    assert "bfloat16: fewer" in gate.failures(report(float32=good), "bfloat16")[0]
    assert "float32: fewer" in gate.failures(report(float32=good | {"prompts": 63}), "float32")[0]


@pytest.mark.parametrize("behind", [0, 3])
def test_differences_are_in_units_of_the_deviation(behind):
    written = np.array([[[0.0, 2.0, 4.0, 2.0]]]) * 10
    expected, found = (
        np.pad(logits, ((0, 0), (0, behind), (0, 0)))  # the text ended: all is 0
        for logits in (written, written + np.array([0.0, 0.0, 0.0, 1.0]))
    )
    difference = selftest._difference(found, {"logits": expected})
    assert difference["logits_max"] == pytest.approx(1 / written.std())
    assert difference["logits_rms"] == pytest.approx(0.5 / written.std())
    found[:, 1:] = np.nan
    assert np.isnan(selftest._difference(found, {"logits": expected})["logits_max"]) == (behind > 0)


def test_a_program_that_dies_is_quoted(tmp_path):
    (tmp_path / "torch_policy.py").write_text("raise SystemExit('no memory left')")
    with pytest.raises(UserError, match=r"--selftest: expected a report, found no memory left"):
        gate.measure(tmp_path, native.FORMAT)
