"""The verb: what it refuses before anything is opened, and where its picture goes."""

import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from vla_jax.data import show
from vla_jax.data.robots.tabletop import MAX_STEP, TABLETOP

CONFIG = "configs/tabletop.py:smoke"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected --config=..., found none"),
        ((CONFIG,), "expected --params, --mixture, --tokens or --batch=FILE.png, found none"),
        (
            (CONFIG, "--batch="),
            "flag --batch=: a path is not empty",
        ),
        ((CONFIG, "--batch=x.png", "--step=-1"), "--step=-1"),
        ((CONFIG, "--mixture", "--config.mixture.name=bridg"), "no mixture 'bridg'.*'bridge'"),
        ((CONFIG, "--mixture", "--config.mixture.name=bridge"), "dataset 'bridge_orig': not found"),
    ],
)
def test_a_slip_is_one_line(refused, monkeypatch, request, tmp_path, arguments, message):
    monkeypatch.chdir(request.config.rootpath)
    data = f"--config.data_dir={tmp_path}"
    error = refused("inspect", *arguments, *([data] if arguments else []))
    assert re.search(message, error), error


def test_a_picture_is_written_whole_into_a_new_folder(tmp_path):
    picture = np.full((2, 3, 3), 7, np.uint8)
    show.save(picture, tmp_path / "new" / "batch.png")
    assert (np.asarray(Image.open(tmp_path / "new" / "batch.png")) == picture).all()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["batch.png"]


def test_what_writing_actions_as_tokens_costs_is_printed_per_dimension(
    vla_jax, monkeypatch, request, tmp_path
):
    monkeypatch.chdir(request.config.rootpath)
    flags = (f"--config.data_dir={tmp_path}", "--config.bins.count=8")
    code, out, err = vla_jax("inspect", "tests/tiny_run.py", "--tokens", *flags)
    assert code == 0, err
    rows = [line.split("│")[1:-1] for line in out.splitlines() if line.startswith("│")]
    table = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if len(row) == 9}
    assert list(table) == list(TABLETOP.spec.names)
    unit, mean, worst, _, bins, dead, in_use, fullest = table["dx"]
    assert (unit, bins) == ("metres per step", "8")
    assert 0 < float(mean) <= float(worst) < MAX_STEP / 8 * 1.01
    assert 0 <= int(dead) < 8
    assert 1 < float(in_use) <= 8 - int(dead)
    assert 1 / 8 <= float(fullest.rstrip("%")) / 100 < 1
    assert table["terminate"][1:3] == ["0", "0"]
    assert "8.0 tokens an example, at most 8; they are of 8 ids" in out


TINY = pathlib.Path(__file__).parents[1] / "models" / "data"


def test_a_checkpoint_is_described(vla_jax):
    code, out, err = vla_jax("inspect", TINY / "pg2.npz")
    assert (code, err) == (0, "")
    text = " ".join(out.replace("│", " ").split())
    for part in (
        "family big_vision PaliGemma",
        "dtype float32",
        "3 layers of 64, 4 heads (2 of keys) of 32, mlp 128, 512 tokens, attention cap 50",
        "parameters of decoder 181,056",
        "parameters 271,372",
        "problems none",
    ):
        assert part in text, text


def test_what_a_checkpoint_lacks_is_printed_and_an_error(vla_jax, tmp_path):
    with np.load(TINY / "pg1.npz") as archive:
        rest = {name: archive[name] for name in archive.files if "final_norm" not in name}
    np.savez(tmp_path / "pg1.npz", **rest)
    code, out, err = vla_jax("inspect", tmp_path / "pg1.npz")
    assert code == 1
    assert "1 missing" in out
    assert "1 missing: params/llm/final_norm/scale" in err


def test_a_path_that_is_neither(refused):
    assert "expected a file or folder, found nothing there" in refused("inspect", "nowhere")
    assert "expected the arguments CHECKPOINT" in refused("inspect", "one", "two")
