import json

import pytest
from question_files import picture, write_lines

from vla_jax.core.errors import UserError
from vla_jax.data.web.table import WebConfig, open_web
from vla_jax.tokens.prompts import PromptsConfig

LINES = [
    {"image": f"photos/{i}.jpg", "prefix": f"answer en wo ist {i}?", "suffix": f"dört {i}"}
    for i in range(4)
]


def opened(directory, split="train", layout="prefix_suffix", **kwargs):
    config = WebConfig(format="jsonl", layout=layout, split=split)
    return open_web("web", config, directory=directory, **kwargs)


def test_lines_name_their_images(tmp_path):
    write_lines(tmp_path / "data_train.jsonl", LINES)
    source = opened(tmp_path)
    assert len(source) == 4
    for i, line in enumerate(LINES):
        example = source.example(i, draw=i)
        assert (example.prefix, example.suffix) == (line["prefix"], line["suffix"])
        assert example.images == {"primary": (picture(i),)}


def test_paths_are_relative_to_the_folder_of_the_lines(tmp_path):
    write_lines(tmp_path / "val" / "a.jsonl", LINES)
    assert (tmp_path / "val" / "photos" / "3.jpg").exists()
    assert opened(tmp_path, "val").example(3).images["primary"] == (picture(3),)


def test_an_absolute_path_is_read_as_it_is(tmp_path):
    write_lines(tmp_path / "elsewhere" / "x.jsonl", LINES)
    image = str(tmp_path / "elsewhere" / "photos" / "2.jpg")
    (tmp_path / "train.jsonl").write_text(json.dumps({**LINES[2], "image": image}))
    assert opened(tmp_path).example(0).images["primary"] == (picture(2),)


def test_blank_lines_and_a_missing_last_newline_are_no_examples(tmp_path):
    path = tmp_path / "train.jsonl"
    write_lines(path, LINES)
    text = path.read_text().replace("\n", "\r\n\n \n").rstrip()
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())  # as Windows editors begin a file
    source = opened(tmp_path)
    assert [source.example(i).suffix for i in range(len(source))] == [
        line["suffix"] for line in LINES
    ]


def test_several_answers_and_numbers(tmp_path):
    line = {"image": "a.jpg", "question": "How many?", "answers": [2, "two", 2]}
    write_lines(tmp_path / "train.jsonl", [line])
    source = opened(tmp_path, layout="qa")
    assert [source.example(0, draw).suffix for draw in range(4)] == ["2", "two", "2", "2"]


def test_captions_without_a_prefix(tmp_path):
    write_lines(tmp_path / "train.jsonl", [{"image": "a.jpg", "suffix": "a cow"}])
    example = opened(tmp_path, layout="coco_captions").example(0)
    assert (example.prefix, example.suffix) == ("caption en", "a cow")
    assert example.is_prompt


def test_texts_are_trained_on_as_they_are_written(tmp_path):
    prompts = PromptsConfig(web="paligemma")
    write_lines(tmp_path / "train.jsonl", [{**LINES[0], "question": "Where?", "answer": "a b."}])
    asked = opened(tmp_path, layout="qa")
    assert asked.written(prompts) == {"answer en Where", "a b."}
    assert not asked.example(0).is_prompt
    whole = opened(tmp_path)
    assert whole.written(prompts) == {"answer en wo ist 0?", "dört 0"}
    assert whole.example(0).is_prompt


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": ', r"line 2: not valid JSON.*.*one JSON object"),
        ('["a"]', r"line 2: expected object, got array"),
        ('{"prefix": "a", "suffix": "b"}', r"line 2: field 'image'.*path of one image.*none"),
        ('{"image": true, "prefix": "a", "suffix": "b"}', r"line 2: field 'image'"),
        (
            '{"image": "photos/9.jpg", "prefix": "a", "suffix": "b"}',
            r"line 2: the image cannot be read: expected a file .*photos/9\.jpg.*relative to",
        ),
        ('{"image": "photos/0.jpg", "suffix": "b"}', r"line 2: no field 'prefix'.*image, suffix"),
        ('{"image": "photos/0.jpg", "prefix": "", "suffix": "b"}', r"line 2: field 'prefix'.*none"),
        ('{"image": "photos/0.jpg", "prefix": "a", "suffix": []}', r"line 2: field 'suffix'.*none"),
        (
            '{"image": "photos/0.jpg", "prefix": ["a", "b"], "suffix": "c"}',
            r"one question, found 2",
        ),
        ('{"image": "photos/0.jpg", "prefix": "a", "suffix": {"de": "b"}}', r"field 'suffix'.*one"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "train.jsonl"
    write_lines(path, LINES)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[2:]]))
    with pytest.raises(UserError, match=r"dataset web, shard .*train\.jsonl, .*" + message):
        opened(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "train.jsonl"
    write_lines(path, [{"image": "1.jpg", "prefix": "x", "suffix": "b"}])
    path.write_bytes(path.read_bytes().replace(b"x", b"gr\xfcn"))
    with pytest.raises(UserError, match=r"line 1: not UTF-8.*0xfc"):
        opened(tmp_path)


def test_an_image_that_has_gone_is_named(tmp_path):
    write_lines(tmp_path / "train.jsonl", LINES)
    source = opened(tmp_path)
    (tmp_path / "photos" / "1.jpg").unlink()
    with pytest.raises(UserError, match=r"train\.jsonl, example 1: the image cannot be read"):
        source.example(1)
