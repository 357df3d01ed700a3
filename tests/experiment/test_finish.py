"""What an evaluation leaves behind, when it is cut short."""

import pytest

from vla_jax.eval.record import Record
from vla_jax.experiment import finish
from vla_jax.experiment.evaluation import Results

RECORD = Record(
    split="seen",
    seed=0,
    options={},
    start="a",
    instruction="pick",
    success=True,
    steps=3,
    info={},
)
ABOUT = {"checkpoint": "run", "step": 7}


class KilledError(BaseException):
    """The end of the process."""


def test_results_are_there_when_everything_else_is(tmp_path, monkeypatch):
    (tmp_path / "results.json").write_text("{}")  # of the evaluation before
    there = []

    def killed(folder, content):
        there.extend(sorted(path.name for path in folder.iterdir()))
        raise KilledError

    results = Results(records=[RECORD], environment={"name": "tabletop"})
    with monkeypatch.context() as patch:
        patch.setattr(finish.page, "write_evaluation", killed)
        with pytest.raises(KilledError):
            finish.leave(results, tmp_path, ABOUT)
    assert there == ["episodes.jsonl"]  # whose numbers nobody takes for those of old results
    finish.leave(results, tmp_path, ABOUT)
    left = {"episodes.jsonl", "report.html", "results.json"}
    assert {path.name for path in tmp_path.iterdir()} == left
