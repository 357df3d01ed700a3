"""The page: whole, self-contained, and for everybody to read."""

import collections
import html.parser
import re

import numpy as np
import pytest
from PIL import Image

from vla_jax.eval import html as page
from vla_jax.eval.rate import Rate

RATE = Rate.of([True, True, False])
VOID = {"meta", "img", "br", "link"}


def content(**changes):
    split = {"split": "seen", "success": RATE, "wrong": RATE, "steps": 7.5, "total": False}
    evaluation = {
        "title": "Closed loop: somewhere",
        "protocol": "As published.",
        "splits": [split, {**split, "split": "all", "wrong": None, "total": True}],
        "wrong": True,
        "tasks": {"names": ["pick", "side"], "rows": [["seen", "50 (10-90)", None]]},
        "film": "data:video/webm;base64,AAAA",
        "filmed": [
            {"instruction": "pick <b>", "split": "seen", "seed": 1, "success": True, "steps": 3}
        ],
        "fingerprint": [("name", "somewhere"), ("digest", "00ff")],
    }
    values = {
        "title": "a run & <script>",
        "subtitle": "step 1 of 2",
        "tiles": [{"name": "Success", "value": "90%", "note": "of 10"}],
        "evaluations": [evaluation],
        "questions": [{"kind": "colour", "rate": RATE, "total": False}],
        "demonstrations": [{"caption": "c", "header": ["D", "U", "E"], "rows": [["dx", "m", 0.1]]}],
        "charts": [{"title": "loss", "svg": page.drawing("<svg></svg>"), "last": "loss 0.1"}],
        "mixture": {"header": ["Source", "Weight"], "rows": [["web", "1"]], "left_out": ["two"]},
        "changes": [("config.a", "1", "2")],
        "origin": {"command": "vla-jax train", "file": "c.py", "changes": [("config.a", "1", "2")]},
        "about": [("revision", "abc")],
        "notes": ["two files disagree & more"],
    }
    return values | changes


class Reader(html.parser.HTMLParser):
    """Collects elements, and complains about those that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.texts = [], collections.defaultdict(list), []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found[tag].append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found[tag].append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.texts.append(data)

    def every(self, name):
        return [attrs[name] for found in self.found.values() for attrs in found if name in attrs]


@pytest.fixture(scope="module")
def reader():
    return Reader(page.render(content()))


def test_the_page_needs_no_other_file_and_runs_nothing(reader):
    links = [*reader.every("src"), *reader.every("href")]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert set(reader.found) & {"script", "link", "iframe", "object"} == set()
    style = page.render(content())
    assert not re.search(r"@import|url\(", style)


def test_links_inside_the_page_have_their_ends(reader):
    ids = reader.every("id")
    assert len(ids) == len(set(ids))
    wanted = [link[1:] for link in reader.every("href")] + reader.every("aria-labelledby")
    assert set(wanted) <= set(ids)


def test_tables_have_headers_and_pictures_have_words(reader):
    assert len(reader.found["table"]) >= 7
    assert {attrs.get("scope") for attrs in reader.found["th"]} == {"row", "col"}
    assert all(attrs.get("aria-label") for attrs in reader.found["svg"] if "role" in attrs)
    assert all(attrs.get("aria-label") for attrs in reader.found["video"])
    assert "controls" in reader.found["video"][0]
    assert reader.found["html"][0]["lang"] == "en"
    assert any(attrs.get("name") == "viewport" for attrs in reader.found["meta"])


def test_text_is_text(reader):
    assert "a run & <script>" in reader.texts
    assert "pick <b>" in reader.texts


def test_numbers_are_spelled_for_people(reader):
    text = " ".join(reader.texts)
    assert "66.7%" in text
    assert "21% to 94%" in text
    assert "0.1" in text


def test_a_film_that_is_no_video_is_a_picture_with_words():
    evaluation = content()["evaluations"][0] | {"film": "data:image/gif;base64,AAAA"}
    found = Reader(page.render(content(evaluations=[evaluation]))).found
    assert found["video"] == []
    assert found["img"][0]["alt"].startswith("Film of 1 episodes")


def test_what_a_run_does_not_have_is_left_out():
    empty = dict.fromkeys(("questions", "demonstrations", "charts", "mixture", "origin"))
    reader = Reader(page.render(content(evaluations=[], tiles=[], changes=None, **empty)))
    assert len(reader.found["section"]) == 1
    assert reader.every("href") == ["#provenance"]


def test_files_become_part_of_the_page(tmp_path):
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "x.png")
    assert page.data_uri(tmp_path / "x.png").startswith("data:image/png;base64,iVBOR")


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1200])
@pytest.mark.parametrize(("dark", "background"), [(False, (246, 247, 249)), (True, (18, 21, 25))])
def test_a_browser_shows_the_page(tmp_path, screenshot, width, dark, background):
    (tmp_path / "page.html").write_text(page.render(content()))
    pixels = screenshot(tmp_path / "page.html", width=width, height=1600, dark=dark)
    assert pixels.shape == (1600, width, 3)
    for x in (2, width - 3):  # nothing runs over the edges
        assert (pixels[:, x] == background).all()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    ink = (np.abs(pixels.astype(int) - background).max(axis=-1) > 60).mean()
    assert 0.005 < ink < 0.3
