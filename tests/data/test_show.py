"""The picture of a batch, checked by its pixels and by the words that were drawn."""

import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vla_jax.actions.spec import ActionSpec
from vla_jax.actions.statistics import Statistics
from vla_jax.core.batch import Batch, Target
from vla_jax.core.errors import UserError
from vla_jax.data import show
from vla_jax.tokens.action_tokens import ActionTokens, ActionTokensConfig, choose_ids
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.sequence import SequenceConfig
from vla_jax.tokens.tokenizer import Tokenizer

SOURCES = ("arm", "questions")
SPEC = ActionSpec(
    names=("dx", "dyaw", "gripper"),
    units=("metres per step", "radians per step", "0..1"),
    low=(-0.05, -0.3, 0.0),
    high=(0.05, 0.3, 1.0),
    discrete=(False, False, False),
    frame="base",
    gripper="1 open, 0 closed",
    control_hz=5.0,
)
ACTION = np.array([[0.02, -0.1, 1.0], [-0.03, 0.2, 0.0]], np.float32)


@pytest.fixture(scope="module")
def encoder():
    tokenizer = Tokenizer.train(["pick up the red cube", "what colour is it", "blue"], 400, 64)
    tokenizer, ids = choose_ids(ActionTokensConfig(), tokenizer, 64)
    statistics = Statistics.of(np.array([SPEC.low, SPEC.high], np.float32))
    return Encoder(
        tokenizer,
        {"arm": ActionTokens(SPEC, statistics, ids)},
        PromptsConfig(robot="plain", web="plain"),
        SequenceConfig(prefix=16, suffix=10),
        chunk=2,
    )


@pytest.fixture(scope="module")
def batch(encoder):
    """A robot step at the end of its episode, without its second view; and a question."""
    robot = Target(
        prefix="pick up the red cube",
        action=ACTION,
        action_mask=np.array([True, False]),
        dataset="arm",
        episode=0,
    )
    web = Target(prefix="what colour is it?", suffix="blue", dataset="questions", episode=0)
    rows = [encoder.encode(target) for target in (robot, web)]
    images = np.zeros((2, 2, 32, 32, 3), np.uint8)
    images[0, 0], images[1] = (200, 30, 30), (30, 30, 200)
    return Batch(
        images=images,
        image_mask=np.array([[True, False], [True, True]]),
        tokens=np.stack([row[0] for row in rows]),
        prefix_length=np.array([row[1] for row in rows]),
        loss_mask=np.stack([row[2] for row in rows]),
        source=np.array([0, 1]),
    )


@pytest.fixture
def words(monkeypatch):
    """The texts drawn onto the final picture, in order, with the colour of the box before each."""
    drawn = []
    text, box = ImageDraw.ImageDraw.text, ImageDraw.ImageDraw.rounded_rectangle

    def watch_text(self, at, string, *args, **kwargs):
        if self.im.size != (1, 1):  # that page only measures
            drawn.append(string)
        return text(self, at, string, *args, **kwargs)

    def watch_box(self, at, radius, fill):
        if self.im.size != (1, 1):
            drawn.append(fill)
        return box(self, at, radius, fill=fill)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", watch_text)
    monkeypatch.setattr(ImageDraw.ImageDraw, "rounded_rectangle", watch_box)
    return drawn


def draw(batch, encoder, **changes):
    return show.picture(batch, encoder, **{"rows": 2, "sources": SOURCES} | changes)


def boxes(words):
    """(colour, text) of every token's box, those of the legend left out."""
    pairs = [pair for pair in itertools.pairwise(words) if isinstance(pair[0], tuple)]
    legend = {"prefix", "in the loss", "not in the loss"}
    return [(colour, text) for colour, text in pairs if text not in legend]


def test_every_token_in_the_loss_is_green_and_no_other(batch, encoder, words):
    draw(batch, encoder)
    found = boxes(words)
    green = [text for colour, text in found if colour == show._GREEN]
    grey = [text for colour, text in found if colour == show._GREY]
    ids = encoder.actions["arm"].encode(ACTION)
    here, beyond = ([encoder.tokenizer.decode([token]) for token in row] for row in ids)
    assert green == [*here, "<eos>", "blue", "<eos>"]
    assert grey == [*beyond, "<pad> x 3", "<pad> x 8"]


def test_the_prefix_is_shown_token_by_token_and_in_words(batch, encoder, words):
    draw(batch, encoder)
    blue = [text for colour, text in boxes(words) if colour == show._BLUE]
    assert blue[:7] == ["<bos>", "pick", "up", "the", "red", "cube", "\\n"]
    assert "pick up the red cube" in words
    assert "arm    prefix 7 of 16 tokens, suffix 7 of 10, 4 in the loss" in words


def test_actions_stand_in_robot_units_below_their_tokens(batch, encoder, words):
    draw(batch, encoder)
    decoded = encoder.actions["arm"].decode(encoder.actions["arm"].encode(ACTION))
    for name, unit, value in zip(SPEC.names, SPEC.units, decoded[0], strict=True):
        at = words.index(name)
        assert words[at : at + 3] == [name, f"{value:+.4g}", unit]
    assert abs(decoded - ACTION).max() < 0.01  # what is drawn is the action that went in


def test_the_pixels_are_those_of_the_batch(batch, encoder):
    image = draw(batch, encoder)
    tile = image[34 + 8 :][: show._TILE, 8 : 8 + show._TILE]
    assert (tile == (200, 30, 30)).all()


def test_an_absent_view_is_hatched_and_named(batch, encoder, words):
    image = draw(batch, encoder, views=("primary", "wrist"))
    tile = image[34 + 8 :][: show._TILE, 16 + show._TILE : 16 + 2 * show._TILE]
    assert len(np.unique(tile.reshape(-1, 3), axis=0)) > 1
    assert (tile > 150).all()
    assert "wrist: absent" in words
    assert "primary" in words


def test_only_so_many_rows_are_drawn(batch, encoder, words):
    small, whole = draw(batch, encoder, rows=1), draw(batch, encoder, rows=99)
    assert len(small) < len(whole)
    assert "1 of 2 examples of the batch" in words


def test_a_long_chunk_is_not_cut(encoder, batch):
    """Sixty steps of actions need more height than the images."""
    layout = SequenceConfig(prefix=16, suffix=200)
    long = Encoder(encoder.tokenizer, encoder.actions, encoder.prompts, layout, chunk=60)
    action = np.tile(ACTION[:1], (60, 1))
    row, length, mask = long.encode(
        Target(prefix="pick up the cube", action=action, dataset="arm", episode=0)
    )
    one = dataclasses.replace(
        batch,
        images=batch.images[:1],
        image_mask=batch.image_mask[:1],
        tokens=row[None],
        prefix_length=np.array([length]),
        loss_mask=mask[None],
        source=np.array([0]),
    )
    image = draw(one, long, rows=1)
    assert len(image) > 60 * 40
    assert (image[-40:] == show._GREY).all(-1).any()  # the padding after the last action


def test_state_is_shown_where_there_is_one(batch, encoder, words):
    state = np.array([[0.5, -1.0, 9.0], [9.0, 9.0, 9.0]], np.float32)
    mask = np.array([[True, True, False], [False, False, False]])
    draw(dataclasses.replace(batch, state=state, state_mask=mask), encoder)
    assert "state in [-1, 1]: +0.50 -1.00" in words
    assert "state in [-1, 1]: none" in words


def test_the_file_holds_the_picture(batch, encoder, tmp_path):
    image = draw(batch, encoder)
    show.save(image, tmp_path / "batch.png")
    with Image.open(tmp_path / "batch.png") as file:
        np.testing.assert_array_equal(np.asarray(file), image)
    assert [path.name for path in tmp_path.iterdir()] == ["batch.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, "rows: expected at least 1, found 0"),
        ({"sources": ("arm",)}, "source names: expected 2 names, found 1"),
    ],
)
def test_wrong_arguments_are_named(batch, encoder, changes, message):
    with pytest.raises(UserError, match=message):
        draw(batch, encoder, **changes)


def test_a_batch_of_another_layout_is_refused(batch, encoder):
    other = dataclasses.replace(batch, tokens=batch.tokens[:, :20])
    with pytest.raises(UserError, match="text slots: expected 26, found 20"):
        draw(other, encoder)
