import dataclasses
import json

import numpy as np
import pytest

from vla_jax.core.episode import Episode
from vla_jax.core.errors import UserError
from vla_jax.eval import closed_loop, record
from vla_jax.eval.closed_loop import Outcome
from vla_jax.eval.record import Record

OUTCOME = Outcome(
    episode=Episode(seed=7, options={"task": "pick", "blocks": (2, 3)}),
    start="0123456789abcdef",
    instruction="pick up the red cube",
    success=True,
    steps=4,
    info={
        "success": True,
        "wrong_block": np.False_,
        "grasped": 0,
        "distance": np.float32(0.5),
        "blocks": [{"colour": "red"}],
    },
)


def test_a_record_keeps_what_a_line_of_json_can_hold():
    found = Record.of("seen", OUTCOME)
    assert found.info == {"wrong_block": False, "grasped": 0, "distance": 0.5}
    assert found.options == {"task": "pick", "blocks": [2, 3]}
    assert found.key == 'seen 7 {"blocks": [2, 3], "task": "pick"}'


def test_records_come_back_from_their_file(tmp_path):
    written = [Record.of("seen", OUTCOME), Record.of("new", OUTCOME)]
    record.write(tmp_path / "episodes.jsonl", written)
    assert record.read(tmp_path / "episodes.jsonl") == written


@pytest.mark.parametrize("line", ["{", "[1]", '{"split": "seen"}'])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "episodes.jsonl"
    record.write(path, [Record.of("seen", OUTCOME)])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"episodes.jsonl, line 2: "):
        record.read(path)
    with pytest.raises(UserError, match="no such file"):
        record.read(tmp_path / "other.jsonl")


def test_digests_tell_observations_apart():
    image = np.zeros((4, 4, 3), np.uint8)
    first = {"image": image, "instruction": "pick", "state": np.zeros(2, np.float32)}
    same = {"state": np.zeros(2, np.float32), "instruction": "pick", "image": image.copy()}
    assert closed_loop.digest(first) == closed_loop.digest(same)
    changed = image.copy()
    changed[0, 0, 0] = 1
    others = [
        {**first, "image": changed},
        {**first, "image": image.reshape(2, 8, 3)},
        {**first, "instruction": "pack"},
        {**first, "state": np.zeros(2, np.float64)},
    ]
    digests = {closed_loop.digest(observation) for observation in [first, *others]}
    assert len(digests) == 5
    assert {len(d) for d in digests} == {16}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"success": "no"}, r"line 2, field success: expected bool, got str"),
        ({"success": None}, r"line 2, field success: expected bool, got null"),
        ({"success": 1}, r"line 2, field success: expected bool, got int"),
        ({"steps": -3}, r"line 2, field steps: expected int >= 0"),
        ({"steps": float("nan")}, r"line 2, field steps: expected int, got float"),
        ({"seed": -1}, r"line 2, field seed"),
        ({"options": []}, r"line 2, field options: expected object, got array"),
        ({"info": {"distance": float("inf")}}, r"line 2, field info\.distance: .* finite number"),
        ({"options": {"a": [float("nan")]}}, r"line 2, field options\.a\.0: .* finite number"),
        ({"sucess": True}, r"line 2: object contains unknown field sucess"),
        ({}, r"line 2: the episode seen 7 .* found it in line 1, too"),
        ({"success": False}, r"line 2: the episode seen 7 .* found it in line 1, too"),
    ],
)
def test_a_record_that_does_not_make_sense_is_refused_by_line_and_field(tmp_path, changes, message):
    path = tmp_path / "episodes.jsonl"
    record.write(path, [Record.of("seen", OUTCOME)])
    line = json.loads(path.read_text()) | changes
    path.write_text(path.read_text() + json.dumps(line) + "\n")
    with pytest.raises(UserError, match=message):
        record.read(path)


def test_a_number_of_the_environment_that_is_not_finite_is_left_out():
    outcome = dataclasses.replace(OUTCOME, info={"distance": float("nan"), "grasped": 1})
    assert Record.of("seen", outcome).info == {"grasped": 1}
