"""Instructions and pictures."""

import numpy as np
import pytest
from toy_recording import LENGTHS, make, png

from vla_jax.data.doctor import content as checks

COUNT = sum(LENGTHS)


@pytest.mark.parametrize("check", [checks.language, checks.pictures])
def test_a_healthy_recording_is_ok(healthy, check):
    finding = check(healthy)
    assert (finding.severity, finding.score) == ("ok", 1.0), finding.text


def said(share):
    """A share of the steps says nothing, or only spaces."""
    ids = np.ones(COUNT, int)
    ids[: round(share * COUNT)] = np.arange(round(share * COUNT)) % 2 * 2
    return {"steps/language": (ids, ["", "pick it up", "  "])}


@pytest.mark.parametrize(("share", "severity"), [(0.2, "warning"), (0.6, "error")])
def test_missing_instructions_are_counted_and_named(share, severity):
    finding = checks.language(make(texts=said(share)))
    assert finding.severity == severity
    assert "no instruction, first at toy shard 0 episode 0 step 0" in finding.text
    assert finding.score == pytest.approx(1 - share, abs=0.01)


def test_one_of_several_instructions_is_enough():
    texts = said(0.5) | {"steps/other": (np.zeros(COUNT, int), ["push"])}
    assert checks.language(make(texts=texts)).severity == "ok"


def test_a_dataset_without_language_is_an_error():
    assert checks.language(make(texts={})).severity == "error"


def test_one_instruction_for_everything_is_noted():
    lengths = (20,) * 10
    finding = checks.language(
        make(lengths=lengths, texts={"steps/language": (np.zeros(200, int), ["push"])})
    )
    assert finding.severity == "note"


def test_a_damaged_picture_is_named():
    broken = LENGTHS[0] + 2

    def image(camera, i):
        return b"\xff\xd8\xff nothing" if i == broken else png(90)

    finding = checks.pictures(make(image=image))
    assert finding.severity == "error"
    assert "1 of 176 pictures are damaged" in finding.text
    assert "toy shard 0 episode 1 step 2" in finding.text
    assert finding.numbers == {"decoded": 175, "damaged": 1}


def test_blank_pictures_are_named():
    import cv2

    blank = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    finding = checks.pictures(make(image=lambda camera, i: blank))
    assert finding.severity == "warning"
    assert "of one colour" in finding.text
    few = checks.pictures(make(image=lambda camera, i: blank if i == 3 else png(90, 8)))
    assert few.severity == "note"
    assert "episode 0 step 3" in few.text


def test_pictures_of_several_sizes_are_noted():
    finding = checks.pictures(make(image=lambda camera, i: png(90, 16 if i % 2 else 24)))
    assert finding.severity == "note"
    assert "16x16, 24x24" in finding.text


def test_a_sample_is_looked_at_unless_all_are_asked_for():
    lengths, seen = (300, 300), []

    def image(camera, i):
        seen.append(i)
        return png(90, 8)

    checks.pictures(make(lengths=lengths, image=image, texts={}))
    sample = list(seen)
    assert (sample[0], sample[-1], len(sample)) == (0, 599, checks.SAMPLE)
    seen.clear()
    checks.pictures(make(lengths=lengths, image=image, texts={}), everything=True)
    assert seen == list(range(600))
    seen.clear()
    checks.pictures(make(lengths=lengths, image=image, texts={}))
    assert seen == sample  # the same every time
