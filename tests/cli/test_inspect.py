"""The verb: what it refuses before anything is opened, and where its picture goes."""

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
        ((CONFIG,), "expected --mixture, --batch=FILE.png, found neither"),
        ((CONFIG, "--batch="), "expected --mixture, --batch=FILE.png, found neither"),
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
