import dataclasses

import numpy as np
import pytest

from vla_jax.actions.statistics import Statistics
from vla_jax.core.batch import Target
from vla_jax.core.errors import UserError
from vla_jax.tokens.action_tokens import ActionTokens, ActionTokensConfig, choose_ids
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.sequence import SequenceConfig

PAD, EOS, BOS = 0, 1, 2  # of a trained tokenizer

LAYOUT = SequenceConfig(prefix=20, suffix=6)


@pytest.fixture
def encoder(tokenizer, spec, statistics):
    _, ids = choose_ids(ActionTokensConfig(), tokenizer, 32)
    prompts = PromptsConfig(robot="plain", web="rt2")
    return Encoder(tokenizer, {"arm": ActionTokens(spec, statistics, ids)}, prompts, LAYOUT)


def web(question, answer):
    return Target(prefix=question, suffix=answer, places=True, dataset="web", episode=3)


def robot(instruction, action):
    return Target(prefix=instruction, action=action, dataset="arm", episode=2, t=5)


def test_a_robot_frame_becomes_instruction_and_action(encoder, tokenizer, actions):
    tokens, length, mask = encoder.encode(robot("pick up the red cube", actions[:1]))
    words = tokenizer.encode("pick up the red cube")
    assert length == len(words) + 2
    assert tokens[:20].tolist() == [PAD] * 13 + [BOS, *words, tokenizer.special.separator]
    action = encoder.actions["arm"].encode(actions[0]).tolist()
    assert tokens[20:].tolist() == [*action, EOS, PAD]
    assert mask.tolist() == [False] * 20 + [True] * 5 + [False]


def test_a_web_frame_becomes_question_and_answer(encoder, tokenizer):
    tokens, length, mask = encoder.encode(web("where is the green moon?", "<loc0003><loc0012>"))
    words = tokenizer.encode("Q: where is the green moon? A:")
    assert length == len(words) + 2
    assert tokens[20 - length : 20].tolist() == [BOS, *words, tokenizer.special.separator]
    place = [tokenizer.id("<loc0003>"), tokenizer.id("<loc0012>")]
    assert tokens[20:].tolist() == [*place, EOS, PAD, PAD, PAD]
    assert mask.sum() == 3


def test_the_prefix_for_acting_is_the_one_of_training(encoder, actions):
    for text in ("pick up the red cube", "move the cube to the left"):
        tokens, length, _ = encoder.encode(robot(text, actions[:1]))
        row, same = encoder.prefix(text, robot=True)
        assert same == length
        np.testing.assert_array_equal(row, tokens[:20])


def test_the_same_words_as_instruction_and_question_differ(encoder):
    instruction, _ = encoder.prefix("the cube", robot=True)
    question, _ = encoder.prefix("the cube", robot=False)
    assert instruction.tolist() != question.tolist()


@pytest.mark.parametrize("is_first", [True, False])
def test_a_whole_prompt_is_not_worded_whatever_was_asked_before(encoder, tokenizer, is_first):
    question = web("what colour is the cube", "red")
    prompt = dataclasses.replace(question, is_prompt=True)
    for target in (prompt, question) if is_first else (question, prompt):
        encoder.encode(target)
    worded, bare = ("Q: what colour is the cube? A:", "what colour is the cube")
    for target, written in ((question, worded), (prompt, bare)):
        tokens, length, _ = encoder.encode(target)
        row, same = encoder.prefix(target.prefix, robot=False, is_prompt=target.is_prompt)
        np.testing.assert_array_equal(row, tokens[:20])
        assert length == same
        words = tokenizer.encode(written)
        assert row[20 - length :].tolist() == [BOS, *words, tokenizer.special.separator]


def test_writing_into_an_encoded_row_does_not_change_the_next(encoder, actions):
    frame = robot("pick up the red cube", actions[:1])
    first, _, _ = encoder.encode(frame)
    expected = first.copy()
    first[:] = 7
    np.testing.assert_array_equal(encoder.encode(frame)[0], expected)


def test_what_does_not_fit_is_refused_by_name(encoder, actions):
    with pytest.raises(UserError, match=r"target of arm episode 2 step 5 is too long"):
        encoder.encode(robot("pick up the cube", actions[:2]))
    with pytest.raises(UserError, match=r"prompt '.*' is too long"):
        encoder.encode(web("what colour is the cube " * 4, "red"))
    with pytest.raises(UserError, match=r"instruction ''.*: expected at least one word"):
        encoder.encode(robot("", actions[:1]))


def test_each_robot_is_written_with_its_own_statistics(tokenizer, spec, statistics, actions):
    _, ids = choose_ids(ActionTokensConfig(), tokenizer, 32)
    wide = Statistics.of(actions * 3)
    robots = {"arm": ActionTokens(spec, statistics, ids), "wide": ActionTokens(spec, wide, ids)}
    encoder = Encoder(tokenizer, robots, PromptsConfig(robot="plain"), LAYOUT)
    target = robot("pick up the red cube", actions[:1])
    arm, _, _ = encoder.encode(target)
    other, _, _ = encoder.encode(dataclasses.replace(target, dataset="wide"))
    assert arm[20:24].tolist() == robots["arm"].encode(actions[0]).tolist()
    assert other[20:24].tolist() == robots["wide"].encode(actions[0]).tolist()
    assert arm.tolist() != other.tolist()
    assert encoder.robot("wide") == "wide"
    with pytest.raises(UserError, match=r"expected one of arm, wide, found none named"):
        encoder.robot()
    with pytest.raises(UserError, match=r"found wode\. The nearest is 'wide'"):
        encoder.robot("wode")


def test_the_only_robot_needs_no_name(encoder):
    assert encoder.robot() == "arm"


def test_actions_beyond_the_episode_are_written_and_not_supervised(
    tokenizer, spec, statistics, actions
):
    _, ids = choose_ids(ActionTokensConfig(), tokenizer, 32)
    layout = SequenceConfig(prefix=20, suffix=14)
    arm = ActionTokens(spec, statistics, ids)
    encoder = Encoder(tokenizer, {"arm": arm}, PromptsConfig(robot="plain"), layout, chunk=3)
    target = Target(
        prefix="pick up the red cube",
        action=actions[:3],
        action_mask=np.array([True, True, False]),
        dataset="arm",
        episode=0,
    )
    tokens, _, mask = encoder.encode(target)
    assert tokens[20:].tolist() == [*arm.encode(actions[:3]).ravel().tolist(), EOS, PAD]
    assert mask[20:].tolist() == [True] * 8 + [False] * 4 + [True, False]


def test_memory_of_prompts_is_bounded(encoder):
    assert encoder._prefix.cache_info().maxsize == 50_000


def test_many_are_written_as_each_alone(tokenizer, spec, statistics, actions):
    _, ids = choose_ids(ActionTokensConfig(), tokenizer, 32)
    arms = {
        name: ActionTokens(spec, Statistics.of(actions * factor), ids)
        for name, factor in (("arm", 1), ("wide", 3))
    }
    encoder = Encoder(tokenizer, arms, PromptsConfig(robot="plain"), LAYOUT)
    targets = [
        robot("pick up the red cube", actions[:1]),
        web("what colour is the cube?", "red"),
        dataclasses.replace(robot("pick up the cube", actions[1:2]), dataset="wide"),
        dataclasses.replace(
            robot("pick up the red cube", actions[2:3]), action_mask=np.array([False])
        ),
        web("where is the green moon?", "<loc0003><loc0012>"),
        robot("pick up the cube", actions[3:4]),
    ]
    tokens, lengths, masks = encoder.encode_all(targets)
    for row, target in enumerate(targets):
        alone, length, mask = encoder.encode(target)
        np.testing.assert_array_equal(tokens[row], alone)
        np.testing.assert_array_equal(masks[row], mask)
        assert lengths[row] == length
    assert masks[3, 20:].tolist() == [False] * 4 + [True, False]
    assert (tokens[0] != tokens[3]).any()
