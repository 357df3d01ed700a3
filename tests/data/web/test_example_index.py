import json
import os
import tracemalloc

import numpy as np
import pytest
from question_files import picture, write_lines

from vla_jax.core.errors import UserError
from vla_jax.data.web import index
from vla_jax.data.web.table import WebConfig, open_web

LINES = [{"image": "a.jpg", "question": f"q{i}", "answer": "yes"} for i in range(6)]


def opened(directory, layout="qa", **kwargs):
    return open_web("web", WebConfig(format="jsonl", layout=layout), directory=directory, **kwargs)


@pytest.fixture
def directory(tmp_path):
    folder = tmp_path / "data"
    write_lines(folder / "train.jsonl", LINES)
    return folder


@pytest.fixture
def passes(monkeypatch):
    """Counts how often an index is built."""
    built, real = [], index._build

    def build(*args):
        built.append(1)
        return real(*args)

    monkeypatch.setattr(index, "_build", build)
    return built


def test_a_second_opening_reads_the_index(directory, passes):
    first, second = opened(directory), opened(directory)
    assert len(passes) == 1
    assert first.fingerprint == second.fingerprint
    assert [second.example(i) for i in range(6)] == [first.example(i) for i in range(6)]


def test_a_changed_file_is_indexed_again(directory, passes):
    before = opened(directory).fingerprint
    path = directory / "train.jsonl"
    path.write_text(path.read_text().replace("q3", "Q3"))  # as many bytes as before
    os.utime(path, ns=(1, 1))
    after = opened(directory)
    assert len(passes) == 2
    assert after.example(3).prefix == "Q3"
    assert after.fingerprint != before


def test_copied_data_keep_their_fingerprint(directory, tmp_path):
    before = opened(directory).fingerprint
    directory.rename(tmp_path / "moved")
    os.utime(tmp_path / "moved" / "train.jsonl", ns=(1, 1))
    assert opened(tmp_path / "moved").fingerprint == before


def test_another_layout_has_an_index_of_its_own(directory, passes):
    write_lines(directory / "train.jsonl", [{**line, "caption": "c"} for line in LINES])
    questions, captions = opened(directory), opened(directory, "coco_captions")
    assert len(passes) == 2
    assert questions.fingerprint != captions.fingerprint
    opened(directory)
    opened(directory, "coco_captions")
    assert len(passes) == 2


def test_the_index_goes_to_the_cache_directory(directory, tmp_path):
    before = sorted(directory.rglob("*"))
    opened(directory, cache_dir=tmp_path / "cache")
    assert sorted(directory.rglob("*")) == before
    assert len(list((tmp_path / "cache").rglob("rows.npy"))) == 1


def test_a_damaged_manifest_is_written_again(directory, passes):
    opened(directory)
    (manifest,) = directory.rglob("index.json")
    manifest.write_text("{")
    assert len(opened(directory)) == 6
    assert json.loads(manifest.read_text())["fingerprint"]
    assert len(passes) == 2


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b"x" * 512)])
@pytest.mark.parametrize("name", ["rows.npy", "index.json"])
def test_a_damaged_index_is_made_again_with_a_note(directory, passes, capsys, name, damage):
    before = [opened(directory).example(i) for i in range(6)]
    (path,) = directory.rglob(name)
    damage(path)
    assert [opened(directory).example(i) for i in range(6)] == before
    assert len(passes) == 2
    assert f"index file {path}" in " ".join(capsys.readouterr().out.split())


def test_an_interrupted_pass_leaves_nothing(directory):
    def interrupt(description, done, total):
        raise KeyboardInterrupt

    before = sorted(directory.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        opened(directory, on_progress=interrupt)
    assert sorted(directory.rglob("*")) == before


def test_progress_ends_at_the_size_of_the_files(directory):
    told = []
    opened(directory, on_progress=lambda *args: told.append(args))
    size = (directory / "train.jsonl").stat().st_size
    assert told[-1] == ("index web", size, size)


def test_no_examples_is_an_error(tmp_path):
    (tmp_path / "train.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"dataset web: no examples.*train\.jsonl"):
        opened(tmp_path)


def test_an_opened_set_holds_no_object_per_example(directory):
    line = json.dumps(LINES[0])
    (directory / "train.jsonl").write_text(f"{line}\n" * 20_000)
    tracemalloc.start()
    opened(directory)
    built = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    base = tracemalloc.get_traced_memory()[0]
    source = opened(directory)
    peak = tracemalloc.get_traced_memory()[1] - base
    tracemalloc.stop()
    assert len(source) == 20_000
    assert peak < 0.75e6  # 20,000 rows are 0.8 MB, and lie on disk
    assert built < 8e6  # a window of the file and the rows not yet written


def test_all_that_is_left_out_is_counted_when_the_index_is_opened_again(directory, passes):
    blank = [{"image": "a.jpg", "question": " ", "answer": "yes"}] * 12_000
    write_lines(directory / "train.jsonl", [*LINES, *blank])
    first, again = (opened(directory, on_corrupt="skip") for _ in range(2))
    assert len(passes) == 1
    assert len(first.flaws) == len(again.flaws) == 12_000


def test_a_set_of_which_too_much_cannot_be_used_is_refused(directory, monkeypatch):
    monkeypatch.setattr(index, "_MOST_FLAWS", 2)
    write_lines(directory / "train.jsonl", [*LINES, *[{**LINES[0], "question": ""}] * 3])
    with pytest.raises(UserError, match=r"at most 2, found more, the last of them .*train\.jsonl"):
        opened(directory, on_corrupt="skip")


def test_a_row_costs_forty_bytes(directory):
    opened(directory)
    (path,) = directory.rglob("rows.npy")
    rows = np.load(path)
    assert rows.itemsize == 40
    assert (
        rows["start"].tolist()
        == np.cumsum([0] + [len(json.dumps(x)) + 1 for x in LINES])[:-1].tolist()
    )


def test_every_example_comes_once_per_epoch(directory):
    source = opened(directory)
    numbers, epochs = source.shuffle(0, 18, seed=3)
    assert [sorted(numbers[epochs == e].tolist()) for e in range(3)] == [list(range(6))] * 3


def test_one_picture_serves_many_lines(directory):
    assert {opened(directory).example(i).images["primary"] for i in range(6)} == {(picture(5),)}
