"""What a policy takes, what it refuses, and that a decision is that of the batch."""

import jax
import numpy as np
import pytest

from vla_jax.core.batch import Target
from vla_jax.core.errors import UserError
from vla_jax.data import images as images_lib

EOS = 1  # of a trained tokenizer

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 60, 3), np.uint8)


def test_acting_is_the_batch_of_one_after_the_resize_of_training(tiny, observe):
    action = tiny.policy.act({"primary": IMAGE}, "pick up the red cube")
    resized = images_lib.resize(IMAGE, 32)[None, None]
    values, tokens = tiny.policy.act_batch(observe(resized), ["pick up the red cube"])
    np.testing.assert_array_equal(action.values, values[0])
    np.testing.assert_array_equal(action.tokens, tokens[0])
    assert action.values.shape == (1, 8)
    assert action.values.dtype == np.float32
    assert set(action.milliseconds) == {"prepare", "decode"}
    assert min(action.milliseconds.values()) > 0


def test_values_lie_within_the_action_space(tiny, observations):
    values, _ = tiny.policy.act_batch(*observations)
    spec = tiny.policy.encoder.actions["tabletop"].spec
    assert (values >= np.array(spec.low, np.float32)).all()
    assert (values <= np.array(spec.high, np.float32)).all()
    np.testing.assert_allclose(values[..., 3], 0.0125, rtol=1e-6)  # the dimension without motion


@pytest.mark.parametrize("terminate", [0.0, 1.0])
def test_terminate_is_the_flag_of_the_first_step(tiny, monkeypatch, terminate):
    values, tokens = np.zeros((1, 2, 8), np.float32), np.zeros((1, 16), np.int32)
    values[:, 0, 0], values[:, 1, 0] = terminate, 1 - terminate
    monkeypatch.setattr(tiny.policy, "act_batch", lambda images, instructions: (values, tokens))
    action = tiny.policy.act({"primary": IMAGE}, "pick up the star")
    assert action.terminate is bool(terminate)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({}, "expected the views primary, found none"),
        ({"wrist": IMAGE}, "expected the views primary, found wrist"),
        ({"primary": IMAGE, "wrist": IMAGE}, "found primary, wrist"),
        ({"primary": IMAGE / np.float32(255)}, r"found float32 \[48, 60, 3\]"),
        ({"primary": IMAGE[..., 0]}, r"found uint8 \[48, 60\]"),
        ({"primary": np.dstack([IMAGE, IMAGE[..., :1]])}, r"found uint8 \[48, 60, 4\]"),
        ({"primary": IMAGE.astype(np.uint16)}, "found uint16"),
    ],
)
def test_what_is_no_observation_is_refused(tiny, images, message):
    with pytest.raises(UserError, match=message):
        tiny.policy.act(images, "pick up the red cube")


@pytest.mark.parametrize(
    ("instruction", "message"),
    [("", "at least one word"), (" ?. ", "at least one word"), ("z " * 40, "at most 40 tokens")],
)
def test_what_is_no_instruction_is_refused(tiny, instruction, message):
    with pytest.raises(UserError, match=message):
        tiny.policy.act({"primary": IMAGE}, instruction)


def test_other_parameters_decide_otherwise(tiny, observations):
    images, instructions = observations
    kept = tiny.policy.params
    _, before = tiny.policy.act_batch(images, instructions)
    try:
        tiny.policy.load(jax.tree.map(lambda leaf: leaf[::-1], kept))
        _, other = tiny.policy.act_batch(images, instructions)
    finally:
        tiny.policy.load(kept)
    _, after = tiny.policy.act_batch(images, instructions)
    assert (before != other).any()
    np.testing.assert_array_equal(before, after)


def test_an_answer_ends_before_its_end_token(tiny, observe, monkeypatch):
    tokenizer = tiny.policy.encoder.tokenizer
    rows = [[*tokenizer.encode("red cube"), EOS, *tokenizer.encode("star")], [EOS] * 4]
    width = max(map(len, rows))
    padded = np.array([row + [EOS] * (width - len(row)) for row in rows])
    monkeypatch.setattr(tiny.policy, "_decode_text", lambda *arguments, **named: padded)
    images = observe(np.zeros((2, 1, 32, 32, 3), np.uint8))
    answers = tiny.policy.answer_batch(images, ["what is it?", "what is there"])
    assert answers == ["red cube", ""]


@pytest.mark.parametrize("are_prompts", [None, [False, False], [True, False], [False, True]])
def test_questions_are_worded_and_whole_prompts_are_not(tiny, observe, monkeypatch, are_prompts):
    seen = []

    def decode(params, rows, lengths, **images):
        seen.extend(zip(rows.tolist(), lengths.tolist(), strict=True))
        return np.full((2, 4), EOS)

    monkeypatch.setattr(tiny.policy, "_decode_text", decode)
    images = observe(np.zeros((2, 1, 32, 32, 3), np.uint8))
    tiny.policy.answer_batch(images, ["pick up"] * 2, are_prompts=are_prompts)
    encoder = tiny.policy.encoder
    for (row, length), is_prompt in zip(seen, are_prompts or [False] * 2, strict=True):
        target = Target(
            prefix="pick up", is_prompt=is_prompt, suffix="star", dataset="web", episode=0
        )
        tokens, expected, _ = encoder.encode(target)
        assert (row, length) == (tokens[: encoder.layout.prefix].tolist(), expected)
    assert (seen[0] == seen[1]) == (are_prompts in (None, [False, False]))


def test_an_answer_may_use_any_token(tiny, observations):
    images, _ = observations
    answers = tiny.policy.answer_batch(images[:2], ["what colour is the cube?"] * 2)
    assert all(isinstance(answer, str) for answer in answers)
