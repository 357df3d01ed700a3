"""Questions: every answer is checked here against the scene or the picture, in its own way."""

import collections
import re

import numpy as np
import pytest
import simplejpeg

from vla_jax.core.errors import UserError
from vla_jax.data import records
from vla_jax.envs.tabletop import answers, questions, world
from vla_jax.envs.tabletop.answers import KINDS, Picture
from vla_jax.envs.tabletop.questions import QuestionsConfig

PLAIN = {v: k for k, v in {**world.COLOUR_SYNONYMS, **world.SHAPE_SYNONYMS}.items()}
SCENE = {
    ("red", "cube"): (0.07, 0.10),
    ("cyan", "ring"): (0.22, 0.33),
    ("pink", "heart"): (0.34, 0.17),
}
PICTURE = Picture(tuple(world.Block(*pair) for pair in SCENE), np.array(list(SCENE.values())))


def plain(words):
    """The words with synonyms undone."""
    return [PLAIN.get(word, word) for word in words.split()]


def ask_often(kind, picture=PICTURE, count=200, synonym_rate=0.5):
    rng = np.random.default_rng(0)
    return {
        answers.ask(rng, kind, picture, synonym_rate=synonym_rate, location_levels=16)
        for _ in range(count)
    }


def test_locate_gives_the_centre_of_the_cell_x_before_y():
    asked = ask_often("locate")
    assert len(asked) == 12  # three blocks, each word plain or a synonym
    for question, answer in asked:
        x, y = SCENE[tuple(plain(question)[2:])]
        values = [
            int(value) for value in re.fullmatch(r"<loc(\d{4})><loc(\d{4})>", answer).groups()
        ]
        for value, metres in zip(values, (x, y), strict=True):
            assert value % 16 == 8
            assert abs((value + 0.5) / 256 * 0.4 - metres) <= 0.4 / 16 / 2 + 0.4 / 256


@pytest.mark.parametrize(
    ("position", "levels", "expected"),
    [
        ((0.0, 0.4), 16, "<loc0008><loc0248>"),
        ((0.2, 0.1), 16, "<loc0136><loc0072>"),
        ((0.2, 0.1), 256, "<loc0128><loc0064>"),
        ((0.2, 0.1), 2, "<loc0192><loc0064>"),
    ],
)
def test_locations_are_quantised_to_the_levels(position, levels, expected):
    assert answers.location(np.array(position), levels) == expected


def test_colour_and_shape_answers_are_plain_words_of_the_block_asked_about():
    for question, answer in ask_often("colour"):
        assert (answer, plain(question)[-1]) in SCENE
    for question, answer in ask_often("shape"):
        assert (plain(question)[-2], answer) in SCENE


def test_relation_among_three_names_the_outermost():
    assert ask_often("relation") == {
        ("which object is leftmost", "red cube"),
        ("which object is rightmost", "pink heart"),
        ("which object is topmost", "red cube"),
        ("which object is bottommost", "cyan ring"),
    }


def test_relation_of_two_names_the_other_one():
    pair = Picture(PICTURE.blocks[:2], PICTURE.positions[:2])
    assert ask_often("relation", pair) == {
        ("which object is left of the cyan ring", "red cube"),
        ("which object is right of the red cube", "cyan ring"),
        ("which object is above the cyan ring", "red cube"),
        ("which object is below the red cube", "cyan ring"),
    }


def test_relation_does_not_ask_across_a_gap_too_small_to_see():
    level = Picture(PICTURE.blocks[:2], np.array([(0.1, 0.200), (0.3, 0.205)]))
    assert {question.split()[3] for question, _ in ask_often("relation", level)} == {
        "left",
        "right",
    }


def test_extreme_locates_the_block_at_the_end():
    places = {
        block.name: answers.location(np.array(xy), 16) for block, xy in zip(*PICTURE, strict=True)
    }
    assert ask_often("extreme") == {
        ("locate the leftmost object", places["red cube"]),
        ("locate the rightmost object", places["pink heart"]),
        ("locate the topmost object", places["red cube"]),
        ("locate the bottommost object", places["cyan ring"]),
    }
    level = Picture(PICTURE.blocks[:2], np.array([(0.1, 0.200), (0.3, 0.205)]))
    asked = {question.split()[2] for question, _ in ask_often("extreme", level)}
    assert asked == {"leftmost", "rightmost"}


def test_symbols_are_explained_in_words_and_as_the_places_of_their_sides():
    asked = dict(ask_often("symbol", count=400))
    assert len(asked) == 4 * 4
    for side, symbol in world.SYMBOLS.items():
        assert asked[f"what side is {symbol}"] == side
        assert asked[f"what is the {side} called"] == symbol
        assert asked[f"locate the {symbol}"] == asked[f"locate the {side}"]
        x, y = (int(value) / 256 for value in re.findall(r"\d+", asked[f"locate the {side}"]))
        margins = {"left": x, "right": 1 - x, "top": y, "bottom": 1 - y}
        assert margins[side] * world.TABLE_SIZE < world.EDGE_ZONE


def test_exist_says_yes_exactly_for_blocks_that_are_there():
    asked = ask_often("exist", count=600)
    for question, answer in asked:
        assert answer == ("yes" if tuple(plain(question)[3:]) in SCENE else "no")
    assert {answer for _, answer in asked} == {"yes", "no"}
    has_synonym = {answer for question, answer in asked if set(question.split()) & set(PLAIN)}
    assert has_synonym == {"yes", "no"}  # a synonym gives nothing away


def test_count_quadrant_caption_and_synonym():
    assert ask_often("count") == {("how many objects", "three")}
    assert ask_often("caption") == {("describe the scene", "red cube cyan ring pink heart")}
    assert ask_often("quadrant", synonym_rate=0) == {
        ("where is the red cube", "top left"),
        ("where is the cyan ring", "bottom right"),
        ("where is the pink heart", "top right"),
    }
    for question, answer in ask_often("synonym"):
        assert PLAIN[question.removeprefix("another word for ")] == answer


def test_the_picture_shows_the_block_where_the_answer_says():
    config = QuestionsConfig(kinds={"locate": 1.0}, synonym_rate=0.0)
    for index in range(60):
        made = questions.question(config, 64, 0, "train", index)
        colour = world.COLOURS[made["question"].split()[2]]
        image = simplejpeg.decode_jpeg(made["image"]).astype(int)
        is_block = np.abs(image - colour).max(-1) < 30
        x, y = (int(value) / 4 for value in re.findall(r"\d+", made["answer"]))
        rows, columns = np.nonzero(is_block)
        near = (abs(columns - x) < 9) & (abs(rows - y) < 9)
        assert near.sum() >= 12, made["question"]
        assert near.mean() > 0.9, made["question"]


def test_all_colours_shapes_and_kinds_occur_by_weight():
    config = QuestionsConfig(kinds={"locate": 3.0, "colour": 1.0, "count": 0.0})
    made = questions.questions(config, 64, 0, "train", 0, 800)
    kinds = collections.Counter(one["kind"] for one in made)
    assert set(kinds) == {"locate", "colour"}
    assert kinds["locate"] / 800 == pytest.approx(0.75, abs=0.05)
    asked = {tuple(plain(one["question"])[2:]) for one in made if one["kind"] == "locate"}
    assert {colour for colour, _ in asked} == set(world.COLOURS)
    assert {shape for _, shape in asked} == set(world.SHAPES)
    is_synonym = [
        word in PLAIN
        for one in made
        if one["kind"] == "locate"
        for word in one["question"].split()[2:]
    ]
    assert np.mean(is_synonym) == pytest.approx(0.25, abs=0.05)


def test_every_pair_of_colour_and_shape_occurs():
    rng = np.random.default_rng(0)
    config = QuestionsConfig()
    shown = {
        block
        for _ in range(1000)
        for block in questions.sample_picture(rng, config, "locate").blocks
    }
    assert len(shown) == 64


def test_train_and_validation_are_different_pictures():
    config = QuestionsConfig()
    train = {questions.question(config, 64, 0, "train", n)["image"] for n in range(50)}
    validation = {questions.question(config, 64, 0, "validation", n)["image"] for n in range(50)}
    assert len(train | validation) == 100


@pytest.mark.parametrize("split", ["train", "validation"])
def test_tfds_reads_back_what_was_made(split, small_datasets, small_config):
    tfds = records.import_tfds()
    builder = tfds.builder_from_directory(small_datasets.web)
    skip = {"image": tfds.decode.SkipDecoding()}
    found = list(tfds.as_numpy(builder.as_dataset(split=split, decoders=skip)))
    made = questions.questions(small_config.questions, 64, 3, split, 0, len(found))
    assert len(found) == getattr(small_config.questions, split)
    for one, other in zip(found, made, strict=True):
        assert one["image"] == other["image"]
        for field in ("question", "answer", "kind"):
            assert one[field].decode() == other[field]
    if split == "train":
        assert {one["kind"].decode() for one in found} == set(KINDS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kinds": {"locte": 1.0}}, "questions kinds: no kind 'locte': expected some of locate"),
        ({"kinds": {"locate": -1.0}}, r"QuestionsConfig\.kinds\.locate: expected 0\.\."),
        ({"kinds": {"locate": 0.0}}, "a weight above 0"),
        ({"kinds": {"relation": 1.0}, "blocks": (1, 1)}, "relation and extreme need two blocks"),
        ({"location_levels": 0}, r"location_levels: expected 1\.\.256, found 0"),
        ({"train": 0}, r"\.train: expected 1\.\."),
        ({"blocks": (2, 9)}, r"\.blocks\[1\]: expected 1\.\.4"),
    ],
)
def test_configurations_without_meaning_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        QuestionsConfig(**fields)
