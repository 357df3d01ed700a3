import errno
import os
import pathlib
import re
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from PIL import Image

from vla_jax.core.episode import Episode
from vla_jax.eval import report
from vla_jax.eval.closed_loop import Outcome


def outcome(length, *, success=True, value=0, instruction="pick up the red cube"):
    images = [np.full((64, 64, 3), (value, 10 * t, 0), np.uint8) for t in range(length)]
    return Outcome(
        episode=Episode(seed=0, options={}),
        start="",
        instruction=instruction,
        success=success,
        steps=length - 1,
        info={},
        images=images,
    )


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (4, 4, 1), (5, 4, 2)])
def test_the_film_is_a_grid_with_a_frame_per_step(tmp_path, count, columns, rows):
    outcomes = [outcome(3 + i % 3, value=40 * i) for i in range(count)]
    report.film(outcomes, tmp_path / "episodes.gif")
    with Image.open(tmp_path / "episodes.gif") as film:
        assert film.format == "GIF"
        assert film.n_frames == max(len(o.images) for o in outcomes)
        assert film.size == (columns * 198 + 6, rows * 232 + 6)
        assert film.info["loop"] == 0
        film.seek(film.n_frames - 1)
        assert film.info["duration"] > 1000


def test_the_frame_around_an_episode_tells_how_it_ended(tmp_path):
    outcomes = [outcome(4, success=True), outcome(2, success=False, value=200)]
    report.film(outcomes, tmp_path / "episodes.gif")
    corners = []
    with Image.open(tmp_path / "episodes.gif") as film:
        for t in range(4):
            film.seek(t)
            picture = film.convert("RGB")
            corners.append([picture.getpixel((x, 6 + 34 - 1)) for x in (20, 198 + 20)])

    def colour(pixel):
        red, green, _ = pixel
        return "red" if red > green + 60 else "green" if green > red + 60 else "grey"

    assert [[colour(pixel) for pixel in row] for row in corners] == [
        ["grey", "grey"],
        ["grey", "red"],
        ["grey", "red"],
        ["green", "red"],
    ]


def test_a_long_instruction_is_broken_into_two_lines_at_most(tmp_path):
    words = "move the small yellow star near the large purple moon and then stop there"
    report.film([outcome(2, instruction=words)], tmp_path / "episodes.gif")
    with Image.open(tmp_path / "episodes.gif") as film:
        caption = np.asarray(film.convert("L"))[6:38]
    # The caption does not run into the picture below nor over the right edge.
    assert (caption[:, -5:] > 250).all()
    assert (caption < 200).any()


def test_the_same_film_as_a_video(tmp_path):
    outcomes = [outcome(3 + i, value=40 * i) for i in range(5)]
    report.film(outcomes, tmp_path / "episodes.webm")
    with av.open(str(tmp_path / "episodes.webm")) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name in ("vp9", "libvpx-vp9")
        assert (stream.width, stream.height) == (4 * 198 + 6, 2 * 232 + 6)
        frames = list(film.decode(stream))
    assert len(frames) == 7 + 5  # the last one is held
    last = frames[-1].to_ndarray(format="rgb24")
    assert last[6 + 34 - 1, 20, 1] > last[6 + 34 - 1, 20, 0] + 30  # a green frame


def test_a_long_film_is_cut_to_its_most_frames(tmp_path):
    report.film([outcome(300)], tmp_path / "episodes.gif")
    with Image.open(tmp_path / "episodes.gif") as film:
        assert 60 <= film.n_frames <= 80


def test_nothing_filmed_writes_nothing(tmp_path):
    report.film([], tmp_path / "episodes.gif")
    assert list(tmp_path.iterdir()) == []


ROWS = [
    {"step": 10, "loss": 2.0, "loss/robot": 2.5, "accuracy/robot": 0.1, "gradient_norm": 3.0},
    {"step": 20, "loss": 1.0, "loss/robot": 1.5, "accuracy/robot": 0.5, "gradient_norm": 1.0},
    {"step": 20, "held_out/loss/robot": 1.6, "success/seen": 0.25},
]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], []])
def test_curves_are_a_picture(tmp_path, rows):
    report.curves(rows, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (1100, 660)
        assert len(picture.convert("RGB").getcolors(10**6)) > 2


def test_panels_are_drawings_that_a_page_can_colour():
    found = report.panels(ROWS)
    assert list(found) == [
        "loss per source (nats per token)",
        "token accuracy",
        "closed-loop success",
        "gradient norm",
    ]
    names, svg = found["loss per source (nats per token)"]
    assert names == ["held_out/loss/robot", "loss/robot"]
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "loss/robot" in texts
    assert report.panels(ROWS) == found
    assert report.panels([]) == {}


def test_curves_show_what_was_measured(tmp_path):
    report.curves(ROWS, tmp_path / "all.png")
    report.curves(ROWS[:2], tmp_path / "some.png")
    assert (tmp_path / "all.png").read_bytes() != (tmp_path / "some.png").read_bytes()


@pytest.mark.parametrize("name", ["a.gif", "a.webm", "a.png"])
def test_a_picture_that_does_not_fit_the_disk_costs_nothing_else(tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.write_bytes(b"before")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    is_curve = path.suffix == ".png"
    draw, content = (report.curves, [{"step": 1}]) if is_curve else (report.film, [outcome(3)])
    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{path}'")):
        draw(content, path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"before")]
