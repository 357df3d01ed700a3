import os

import numpy as np
import pytest
from question_files import picture

from vla_jax.core.errors import UserError
from vla_jax.data import records, tfrecord
from vla_jax.data.web.table import WebConfig, open_web

ANSWERS = ["yes", "yes", "no", "yes", "maybe", "yes", "yes", "no", "yes", "yes"]


def vqav2(features):
    """As big_vision's datasets/vqa/vqa.py declares it."""
    return {
        "image/id": np.int32,
        "image/filename": features.Text(),
        "question_id": np.int32,
        "question_type": features.Text(),
        "question_text": features.Text(),
        "answer_type": features.Text(),
        "answers": features.Sequence(features.Text()),
        "answer_confidences": features.Sequence(features.ClassLabel(names=["no", "maybe", "yes"])),
        "top_answer": features.Text(),
    }


def vqav2_rows(count=6, answers=ANSWERS):
    return [
        {
            "image/id": i,
            "image/filename": f"COCO_{i:012d}.jpg",
            "question_id": 10 * i,
            "question_type": "is the",
            "question_text": f"Is the café number {i} open?",
            "answer_type": "yes/no",
            "answers": list(answers),
            "answer_confidences": ["yes"] * len(answers),
            "top_answer": "yes" if answers else "",
        }
        for i in range(count)
    ]


def okvqa(features):
    """As big_vision's datasets/okvqa/okvqa.py declares it."""
    return {
        "image_id": features.Scalar(dtype=np.int64),
        "answer_type": features.Text(),
        "answers": features.Sequence(features.Text()),
        "answers_confidence": features.Tensor(shape=[2], dtype=np.bool_),
        "answers_raw": features.Sequence(features.Text()),
        "question_id": features.Scalar(dtype=np.int64),
        "question_type": features.Text(),
        "question_type_readable": features.Text(),
        "question": features.Text(),
    }


def coco_captions(features):
    """As TFDS' coco_captions declares it."""
    return {
        "captions": features.Sequence({"id": np.int64, "text": features.Text()}),
        "image/filename": features.Text(),
        "image/id": np.int64,
        "objects": features.Sequence(
            {
                "area": np.int64,
                "bbox": features.BBoxFeature(),
                "id": np.int64,
                "is_crowd": np.bool_,
                "label": features.ClassLabel(num_classes=80),
            }
        ),
    }


def opened(directory, layout, split="train", name="web"):
    return open_web(name, WebConfig(layout=layout, split=split), directory=directory)


@pytest.fixture(scope="module")
def vqa_dir(write_tfds):
    return write_tfds("vqa", vqav2, vqav2_rows())


def test_examples_are_those_that_tfds_reads(vqa_dir):
    builder = records.import_tfds().builder_from_directory(vqa_dir)
    decoders = {"image": records.import_tfds().decode.SkipDecoding()}
    truth = list(builder.as_dataset(split="train", decoders=decoders).as_numpy_iterator())
    source = opened(vqa_dir, "vqav2")
    assert len(source) == len(truth) == source.episodes == 6
    for i, row in enumerate(truth):
        example = source.example(i, draw=i)
        assert example.images == {"primary": (row["image"],)}
        assert example.prefix == row["question_text"].decode()
        assert source.answers(i) == [answer.decode() for answer in row["answers"]]
        assert example.suffix == row["answers"][i].decode()
        assert source.question_kind(i) == row["answer_type"].decode()
        assert (example.dataset, example.episode, example.action, example.t) == ("web", i, None, 0)


def test_an_answer_comes_up_as_often_as_it_was_given(vqa_dir):
    source = opened(vqa_dir, "vqav2")
    drawn = [source.example(2, draw).suffix for draw in range(20)]
    assert {word: drawn.count(word) for word in set(drawn)} == {"yes": 14, "no": 4, "maybe": 2}


def test_any_draw_gives_an_answer(vqa_dir):
    source = opened(vqa_dir, "vqav2")
    assert source.example(0, np.uint64(2**64 - 1)).suffix == ANSWERS[(2**64 - 1) % 10]


def test_texts_are_distinct_and_sorted(vqa_dir):
    texts = opened(vqa_dir, "vqav2").texts()
    questions = [row["question_text"] for row in vqav2_rows()]
    assert texts == sorted({*questions, *ANSWERS})


def test_ok_vqa(write_tfds):
    row = {
        "image_id": 1,
        "answer_type": "other",
        "answers": ["racing", "race"],
        "answers_confidence": np.array([True, False]),
        "answers_raw": ["racing", "races"],
        "question_id": 11,
        "question_type": "one",
        "question_type_readable": "Vehicles and Transportation",
        "question": "What sport can you use this for?",
    }
    source = opened(write_tfds("ok_vqa", okvqa, [row], split="val"), "okvqa", "val")
    assert source.example(0).prefix == row["question"]
    assert source.answers(0) == ["racing", "race"]
    assert source.question_kind(0) == "Vehicles and Transportation"


def test_captions_are_answers_to_a_fixed_prefix(write_tfds):
    box = records.import_tfds().features.BBox(0.1, 0.1, 0.5, 0.5)
    boxes = [{"area": 3, "bbox": box, "id": 1, "is_crowd": False, "label": 2}]
    rows = [
        {
            "captions": [{"id": i, "text": f"a cat {i}."}, {"id": 9, "text": "one cat"}],
            "image/filename": "a.jpg",
            "image/id": i,
            "objects": boxes * i,
        }
        for i in range(3)
    ]
    source = opened(write_tfds("coco_captions", coco_captions, rows), "coco_captions")
    assert source.example(2).prefix == "caption en"
    assert source.answers(2) == ["a cat 2.", "one cat"]
    assert source.example(2, draw=3).suffix == "one cat"
    assert source.question_kind(2) == ""


def test_captions_as_a_plain_list(write_tfds):
    def coco35l(features):
        return {"captions": features.Sequence(features.Text()), "language": features.Text()}

    rows = [{"captions": ["a dog", "dogs"], "language": "en"}]
    assert opened(write_tfds("coco35l", coco35l, rows), "coco_captions").answers(0) == [
        "a dog",
        "dogs",
    ]


def test_a_model_that_asks(write_tfds):
    def vqg(features):
        return {"questions": features.Sequence(features.Text())}

    rows = [{"questions": ["Was anyone hurt?", "What happened?", "Whose car is it?"]}]
    source = opened(write_tfds("vqg", vqg, rows), "vqg")
    assert source.example(0, draw=1).prefix == "question en"
    assert source.example(0, draw=1).suffix == "What happened?"


def test_the_tabletop_questions(made):
    source = opened(made.web, "tabletop", "validation")
    builder = records.import_tfds().builder_from_directory(made.web)
    truth = list(builder.as_dataset(split="validation").as_numpy_iterator())
    assert len(source) == len(truth) == 12
    for i, row in enumerate(truth):
        example = source.example(i, draw=7)
        assert (example.prefix, example.suffix) == (
            row["question"].decode(),
            row["answer"].decode(),
        )
        assert source.question_kind(i) == row["kind"].decode()


def test_parts_of_a_split_share_nothing_and_cover_it(vqa_dir):
    head, tail = (opened(vqa_dir, "vqav2", split) for split in ("train[:67%]", "train[67%:]"))
    whole = opened(vqa_dir, "vqav2")
    prefixes = [source.example(i).prefix for source in (head, tail) for i in range(len(source))]
    assert (len(head), len(tail)) == (4, 2)
    assert prefixes == [whole.example(i).prefix for i in range(6)]
    assert len({head.fingerprint, tail.fingerprint, whole.fingerprint}) == 3


def test_a_record_without_answers_is_named(write_tfds):
    rows = [*vqav2_rows(5), *vqav2_rows(1, answers=[])]
    directory = write_tfds("vqa", vqav2, rows)
    with pytest.raises(
        UserError,
        match=r"dataset vqa, shard .*-00001-of-00002, record 1: .*"
        r"'answers'.* at least one answer.* none.*test split",
    ):
        opened(directory, "vqav2", name="vqa")


def test_a_layout_whose_fields_are_not_there_is_refused(vqa_dir):
    with pytest.raises(UserError, match=r"record 0: no field 'captions/text' or .*question_text"):
        opened(vqa_dir, "coco_captions")


def test_a_split_that_is_not_there_is_refused(vqa_dir):
    with pytest.raises(UserError, match=r"no split 'trian'.*'train'"):
        opened(vqa_dir, "vqav2", "trian")


def test_a_text_that_is_not_utf8_is_named(write_tfds):
    directory = write_tfds("vqa", vqav2, vqav2_rows(3))
    shard = directory / "vqa-train.tfrecord-00000-of-00001"
    data = shard.read_bytes()
    found = list(tfrecord.records(lambda start, end: data[start:end], len(data), "shard"))
    payloads = [data[record.start : record.end] for record in found]
    wrong = [each.replace("café".encode(), b"caf\xff\xfe") for each in payloads[1:2]]
    shard.write_bytes(b"".join(records.frame([payloads[0], *wrong, payloads[2]])))
    with pytest.raises(UserError, match=r"record 1, feature 'question_text': not UTF-8.*0xff"):
        opened(directory, "vqav2")


def test_a_truncated_shard_is_named_and_leaves_no_index(write_tfds):
    directory = write_tfds("vqa", vqav2, vqav2_rows(3))
    shard = directory / "vqa-train.tfrecord-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-100])
    before = sorted(directory.rglob("*"))
    with pytest.raises(UserError, match=r"dataset vqa, shard .*00000-of-00001.*whole record"):
        opened(directory, "vqav2", name="vqa")
    assert sorted(directory.rglob("*")) == before


def test_a_flipped_bit_is_named(write_tfds):
    directory = write_tfds("vqa", vqav2, vqav2_rows(3))
    shard = directory / "vqa-train.tfrecord-00000-of-00001"
    whole = shard.read_bytes()
    place = whole.index("café number 1".encode())
    shard.write_bytes(whole[:place] + b"x" + whole[place + 1 :])
    with pytest.raises(UserError, match=r"00000-of-00001, episode 1 .*the payload is corrupted"):
        opened(directory, "vqav2")
    shard.write_bytes(whole)
    source = opened(directory, "vqav2")
    time = shard.stat().st_mtime_ns
    shard.write_bytes(whole[:place] + b"x" + whole[place + 1 :])
    os.utime(shard, ns=(time, time))
    with pytest.raises(UserError, match=r"example 1: has changed since it was indexed"):
        source.example(1)
    assert source.example(0).prefix


def test_a_shard_cut_between_two_records_is_noticed(write_tfds):
    directory = write_tfds("vqa", vqav2, vqav2_rows(3))
    shard = directory / "vqa-train.tfrecord-00000-of-00001"
    data = shard.read_bytes()
    found = list(tfrecord.records(lambda start, end: data[start:end], len(data), "shard"))
    shard.write_bytes(data[: found[2].offset - 12])
    with pytest.raises(UserError, match=r"expected 3 examples, as dataset_info.json says, found 2"):
        opened(directory, "vqav2")


def test_a_record_that_is_no_example_is_named(write_tfds):
    directory = write_tfds("vqa", vqav2, vqav2_rows(3))
    shard = directory / "vqa-train.tfrecord-00000-of-00001"
    shard.write_bytes(b"".join(records.frame([b"no example"])))
    with pytest.raises(UserError, match=r"record 0: .*tf\.train\.Example"):
        opened(directory, "vqav2")


def test_a_flipped_byte_ends_in_no_other_error(write_tfds):
    directory = write_tfds("vqa", vqav2, vqav2_rows(1))
    shard = directory / "vqa-train.tfrecord-00000-of-00001"
    data = shard.read_bytes()
    picture_at = data.index(picture(0)[:16])
    refused = 0
    for position in [*range(12, picture_at, 5), *range(picture_at + len(picture(0)), len(data), 5)]:
        shard.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        try:
            opened(directory, "vqav2").example(0)
        except UserError:
            refused += 1
    assert refused > 20


def test_a_record_without_an_image_is_named(write_tfds, tensorflow):
    directory = write_tfds("vqa", vqav2, vqav2_rows(1))
    record = tensorflow.example(question_text=(bytes, [b"what?"]), answers=(bytes, [b"this"]))
    tensorflow.write(directory / "vqa-train.tfrecord-00000-of-00001", [record])
    with pytest.raises(UserError, match=r"record 0: feature 'image'.*one encoded image.*found 0"):
        opened(directory, "vqav2")


def test_the_image_is_the_one_that_was_written(vqa_dir):
    assert opened(vqa_dir, "vqav2").example(5).images["primary"] == (picture(5),)
