"""Datasets on disk, healthy and sick in every way, and the report of each."""

import base64
import dataclasses
import errno
import io
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from toy_dataset import ACTION, IMAGE, ROBOT, TEXT, Toy
from toy_recording import LENGTHS, SPEC

from vla_jax.core.errors import UserError
from vla_jax.data.doctor import report
from vla_jax.data.doctor.examination import examine
from vla_jax.data.doctor.finding import COST, conclude, grade

SHARDS = [f"toy-train.tfrecord-0000{k}-of-00003" for k in range(3)]


@pytest.fixture(scope="session")
def healthy_directory(tmp_path_factory):
    return Toy().write(tmp_path_factory.mktemp("healthy") / "toy" / "1.0.0")


@pytest.fixture(scope="session")
def healthy_examination(healthy_directory):
    return examine(healthy_directory, robot=ROBOT)


@pytest.fixture
def copy(healthy_directory, tmp_path):
    """A copy of the healthy dataset, to damage."""
    skip = shutil.ignore_patterns(".vla_index")
    return shutil.copytree(healthy_directory, tmp_path / "toy" / "1.0.0", ignore=skip)


def named(examination, name):
    (finding,) = [finding for finding in examination.findings if finding.name == name]
    return finding


def severities(examination):
    return {f.name: f.severity for f in examination.findings if f.severity != "ok"}


def test_a_healthy_dataset_is_healthy(healthy_examination):
    assert severities(healthy_examination) == {}
    assert healthy_examination.grade == (100, "A")
    assert not healthy_examination.failed
    assert len(healthy_examination.findings) == 13


def test_the_same_data_give_the_same_findings_and_the_same_report(
    healthy_directory, healthy_examination, tmp_path
):
    again = examine(healthy_directory, robot=ROBOT)
    assert again.findings == healthy_examination.findings
    pages = [
        report.write(e, tmp_path / f"{k}").read_bytes()
        for k, e in enumerate((healthy_examination, again))
    ]
    assert pages[0] == pages[1]


def test_a_sick_dataset_is_told_all_its_diseases_worst_first(tmp_path):
    toy = Toy()
    toy.action[LENGTHS[0] + 4, 1] = np.nan
    toy.action[:, 5] = 0.1
    toy.action[3, 0] = 50
    toy.action[:, 6] = 1 - toy.action[:, 6]
    toy.texts[:20] = [""] * 20
    toy.pictures[7] = toy.pictures[7][:40]
    examination = examine(toy.write(tmp_path / "toy" / "1.0.0"), robot=ROBOT)
    assert severities(examination) == {
        "finite numbers": "error",
        "pictures": "error",
        "language": "warning",
        "dimensions": "warning",
        "outliers": "warning",
        "gripper": "warning",
    }
    costs = [COST[finding.severity] for finding in examination.findings]
    assert costs == sorted(costs, reverse=True)
    assert examination.grade == (8, "E")
    assert f"{SHARDS[0]} episode 1 step 4" in named(examination, "finite numbers").text
    assert f"{SHARDS[0]} episode 0 step 7" in named(examination, "pictures").text


def test_a_flipped_bit_is_found_by_its_checksum(copy):
    path = copy / SHARDS[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    finding = named(examine(copy, robot=ROBOT), "records")
    assert finding.severity == "error"
    assert SHARDS[1] in finding.text
    assert "checksum" in finding.text
    assert finding.score == pytest.approx(2 / 3)


def test_a_truncated_shard_does_not_hide_the_others(copy, tmp_path):
    path = copy / SHARDS[2]
    path.write_bytes(path.read_bytes()[:-100])
    examination = examine(copy, robot=ROBOT)
    assert severities(examination) == {"records": "error", "index": "error"}
    for name in ("records", "index"):
        assert SHARDS[2] in named(examination, name).text
    assert "1 episodes cannot be read" in named(examination, "index").text
    assert named(examination, "index").score == pytest.approx(5 / 6)
    assert "5 episodes" in report.write(examination, tmp_path / "out").read_text()


def test_shards_without_a_whole_record_end_in_findings_and_a_report_without_plots(copy, tmp_path):
    for name in SHARDS:
        (copy / name).write_bytes((copy / name).read_bytes()[:100])
    examination = examine(copy, robot=ROBOT)
    assert severities(examination) == {"records": "error", "index": "error"}
    page = report.write(examination, tmp_path / "out").read_text()
    assert "could not be read" in page
    assert "<img" not in page


def test_a_shard_with_a_record_less_than_declared_is_found(copy):
    info = json.loads((copy / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"][0] = "3"
    (copy / "dataset_info.json").write_text(json.dumps(info))
    finding = named(examine(copy, robot=ROBOT), "records")
    assert "expected 3 records, found 2" in finding.text


def test_text_that_is_not_utf8_is_found(tmp_path):
    toy = Toy()
    toy.texts[5] = b"pick \xff"
    finding = named(examine(toy.write(tmp_path / "toy" / "1.0.0"), robot=ROBOT), "index")
    assert finding.severity == "error"
    assert "UTF-8" in finding.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": {"primary": "steps/picture"}}, "no feature 'steps/picture'"),
        ({"arrays": (IMAGE,)}, "'steps/image' cannot be read as array"),
        ({"action": lambda columns: columns[ACTION][:, :6]}, "7 dimensions for each of 176 steps"),
        ({"action": lambda columns: columns["steps/joints"]}, "KeyError 'steps/joints'"),
        ({"instruction": ("steps/said", TEXT)}, "no feature 'steps/said'"),
    ],
)
def test_an_adapter_that_does_not_fit_is_an_error_and_raw_numbers_are_examined(
    healthy_directory, changes, words
):
    examination = examine(healthy_directory, robot=dataclasses.replace(ROBOT, **changes))
    finding = named(examination, "schema")
    assert finding.severity == "error"
    assert words in finding.text
    assert examination.recording.names[:2] == ("action[0]", "action[1]")
    assert named(examination, "language").severity == "ok"


def test_without_an_adapter_the_raw_numbers_are_examined(healthy_directory):
    examination = examine(healthy_directory)
    assert severities(examination) == {"schema": "note"}
    assert examination.recording.names == tuple(f"action[{k}]" for k in range(7))
    assert examination.recording.instruction(0) == "pick"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "no split 'test'.*expected one of train"),
        ({"directory": "nowhere"}, "nowhere"),
    ],
)
def test_what_is_no_dataset_is_a_mistake_and_no_finding(healthy_directory, change, message):
    arguments = {"directory": healthy_directory, "split": "train"} | change
    with pytest.raises(UserError, match=message):
        examine(arguments.pop("directory"), robot=ROBOT, **arguments)


def test_an_index_that_cannot_be_written_is_no_fault_of_the_data(copy, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    with pytest.raises(UserError, match="--cache-dir=DIR"):
        examine(copy, robot=ROBOT)


def test_the_index_goes_to_the_cache_directory(copy, tmp_path):
    before = sorted(copy.iterdir())
    examine(copy, robot=ROBOT, cache_dir=tmp_path / "cache")
    assert sorted(copy.iterdir()) == before
    assert list((tmp_path / "cache").rglob("index.json"))


def test_progress_counts_up_to_the_total(copy):
    seen = {}
    examine(
        copy, robot=ROBOT, on_progress=lambda what, done, total: seen.update({what: (done, total)})
    )
    assert seen[f"pictures of {IMAGE}"] == (sum(LENGTHS), sum(LENGTHS))
    assert {what.split()[0] for what in seen} == {"checksums,", "index", "pictures"}
    assert all(done == total for done, total in seen.values())


def test_the_report_is_one_page_with_its_plots_inside(healthy_examination, tmp_path):
    page = report.write(healthy_examination, tmp_path / "out").read_text()
    names = ["actions.png", "episodes.png", "frames.png"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [*names, "report.html"]
    inside = re.findall(r"src='data:image/png;base64,([^']+)'", page)
    for name, data in zip(names, inside, strict=True):
        png = (tmp_path / "out" / name).read_bytes()
        assert base64.b64decode(data) == png
        assert np.asarray(Image.open(io.BytesIO(png))).std() > 5
    assert "http" not in page
    assert all(finding.text in page for finding in healthy_examination.findings)
    assert all(f"<td>{name}</td>" in page for name in SPEC.names)


def test_what_a_dataset_says_cannot_break_the_page(tmp_path):
    toy = Toy(texts=["<b>$x$ & {y}</b> \\frac"] * sum(LENGTHS))
    examination = examine(toy.write(tmp_path / "a&b" / "1.0.0"), robot=ROBOT)
    page = report.write(examination, tmp_path / "out").read_text()
    assert "<b>" not in page
    assert "a&amp;b" in page


def test_every_disease_can_be_drawn(tmp_path):
    """All NaN, no camera that decodes, one episode: the plots say so and do not fail."""
    toy = Toy(pictures=[b"no picture"] * sum(LENGTHS))
    toy.action[:] = np.nan
    examination = examine(toy.write(tmp_path / "toy" / "1.0.0"), robot=ROBOT)
    report.write(examination, tmp_path / "out")
    assert (tmp_path / "out" / "frames.png").is_file()
    assert not (tmp_path / "out" / "actions.png").exists()


def test_points_and_letters():
    def of(*severities):
        return grade([conclude("x", [(severity, "y")], "") for severity in severities])

    assert of() == (100, "A")
    assert of("ok", "note") == (99, "A")
    assert of("warning", "warning") == (84, "B")
    assert of("error") == (70, "C")
    assert of(*["error"] * 4) == (0, "E")


def test_a_finding_is_as_severe_as_its_worst_symptom():
    finding = conclude("x", [("note", "a"), ("error", "b"), ("warning", "c")], "fine")
    assert (finding.severity, finding.text) == ("error", "a; b; c")
    assert conclude("x", [], "fine").text == "fine"
