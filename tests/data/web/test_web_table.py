import pytest

from vla_jax.core.errors import UserError
from vla_jax.data.web.layouts import LAYOUTS
from vla_jax.data.web.table import WebConfig, open_web


def test_an_unknown_layout_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"layout 'vqa2'.*vqav2, okvqa.*nearest is 'vqav2'"):
        WebConfig(layout="vqa2")


def test_an_unknown_format_is_refused():
    with pytest.raises(UserError, match=r"format 'tar'.*tfds, webdataset, jsonl"):
        WebConfig(format="tar")


@pytest.mark.parametrize("field", ["split", "held_out"])
def test_a_split_that_cannot_be_read_is_refused(field):
    with pytest.raises(UserError, match=r"split 'train\[:95' *"):
        WebConfig(**{field: "train[:95"})


def test_a_directory_without_the_format_says_what_it_looked_for(tmp_path):
    for form, expected in (
        ("tfds", "dataset_info.json|SPLIT"),
        ("webdataset", r"\*\.tar"),
        ("jsonl", "jsonl"),
    ):
        with pytest.raises(UserError, match=expected):
            open_web("web", WebConfig(format=form), directory=tmp_path)


def test_captions_questions_asked_and_prefixes_are_whole_prompts():
    whole = {name for name, layout in LAYOUTS.items() if layout.is_prompt}
    assert whole == {"coco_captions", "vqg", "prefix_suffix"}


def test_every_layout_has_a_question_and_an_answer():
    for layout in LAYOUTS.values():
        assert bool(layout.task) != bool(layout.prefix)
        assert layout.suffix
