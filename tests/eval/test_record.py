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
    with pytest.raises(UserError, match=r"episodes.jsonl, line 2: expected an episode"):
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
