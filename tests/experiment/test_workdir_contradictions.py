"""Files of a workdir that contradict each other are told, in one line each."""

import re

import pytest
import untrained_run

from vla_jax.core.errors import UserError
from vla_jax.eval import record
from vla_jax.eval.record import Record
from vla_jax.experiment import contradictions, finish, page, trials
from vla_jax.experiment.sources import Data
from vla_jax.experiment.workdir import Workdir, write_json

RECORDS = [
    Record(
        split="seen" if k < 4 else "color",
        seed=k,
        options={"task": "pick"},
        start=f"{k:x}",
        instruction="go",
        success=k % 2 > 0,
        steps=k,
        info={"wrong_block": k % 3 > 0},
    )
    for k in range(6)
]


def results(records=RECORDS):
    known = {"name": "tabletop", "versions": {"a": "1"}, "image_size": None, "max_steps": 9}
    return {
        "success": {k: v.to_json() for k, v in trials.success(records).items()},
        "wrong_block": {k: v.to_json() for k, v in trials.wrong_block(records).items()},
        "environment": known | {"digest": trials.digest(known, records)},
    }


def found(records, of=None):
    return contradictions.of_evaluation(of or results(), records, "here")


def test_results_and_their_episodes_agree():
    assert found(RECORDS) is None
    assert found(RECORDS, {"environment": {"name": "tabletop"}}) is None  # of an older version


@pytest.mark.parametrize("lost", range(len(RECORDS)))
def test_a_lost_episode_is_told_with_both_counts(lost):
    line = found(RECORDS[:lost] + RECORDS[lost + 1 :])
    split = RECORDS[lost].split
    count = sum(r.split == split for r in RECORDS)
    numbers = re.search(rf"success in {split} [\d.]+% of (\d) and [\d.]+% of (\d)", line)
    assert numbers.groups() == (str(count), str(count - 1))
    assert line.startswith("here: results.json and episodes.jsonl disagree")


def test_another_split_or_outcome_is_told():
    assert "success in color 50.0% of 2 and none" in found(RECORDS[:4])
    assert "success in new none and" in found([*RECORDS, replaced(RECORDS[0], split="new")])
    assert "success in seen 50.0% of 4 and 75.0% of 4" in found(
        [replaced(RECORDS[0], success=True), *RECORDS[1:]]
    )


def test_other_episodes_with_the_same_outcomes_are_told():
    assert "by the digest" in found([replaced(RECORDS[0], start="ffff"), *RECORDS[1:]])
    assert "by the digest" in found([replaced(RECORDS[0], seed=99), *RECORDS[1:]])


def test_lost_lines_of_metrics_are_told():
    rows = [{"step": step} for step in (50, 100)]
    assert contradictions.of_metrics(rows, 100, 50) is None
    assert contradictions.of_metrics(rows, 149, 50) is None  # the next line is due at 150
    assert "ends at step 100, results.json is of step 150" in contradictions.of_metrics(
        rows, 150, 50
    )


def replaced(found, **changes):
    return Record(**{name: getattr(found, name) for name in found.__struct_fields__} | changes)


@pytest.fixture
def workdir(tmp_path):
    made = Workdir(tmp_path / "run")
    made.claim(untrained_run.run_config(tmp_path))
    record.write(made.path / record.FILE, RECORDS)
    write_json(made.results, results())
    return made


def test_the_page_and_the_verb_say_it(workdir, capsys):
    sound = page.write(workdir).read_text()
    assert "disagree" not in sound + capsys.readouterr().out
    record.write(workdir.path / record.FILE, RECORDS[:5])
    told = page.write(workdir).read_text()
    said = capsys.readouterr().out
    assert "disagree" in told
    assert "success in color 50.0% of 2 and 0.0% of 1" in " ".join(said.split())


@pytest.mark.parametrize("name", ["metrics.jsonl", "mixture.json", "origin.json"])
def test_damaged_files_are_refused_before_anything_is_measured(workdir, name):
    before = workdir.results.read_text()
    workdir.path.joinpath(name).write_text('{"a": [\n{"b": 1}\n')
    with pytest.raises(UserError, match=name):
        finish.finish(
            workdir.config(),
            workdir,
            {},
            Data(robots={}, robots_held_out={}, web={}, web_held_out={}),
            {"steps": 1},
        )
    assert workdir.results.read_text() == before  # still there
