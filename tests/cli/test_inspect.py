"""The verb: what it refuses before anything is opened, and where its picture goes."""

import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from vla_jax.data import show

CONFIG = "configs/tabletop.py:smoke"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected --config=..., found none"),
        ((CONFIG,), "expected --params, --mixture, --tokens or --batch=FILE.png, found none"),
        (
            (CONFIG, "--batch="),
            "expected --params, --mixture, --tokens or --batch=FILE.png, found none",
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
