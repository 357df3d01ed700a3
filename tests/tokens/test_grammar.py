"""What may be written where: walks that choose at random what is legal."""

import dataclasses

import numpy as np
import pytest

from vla_jax.core.batch import Target
from vla_jax.core.errors import UserError
from vla_jax.tokens import grammar
from vla_jax.tokens.action_tokens import ActionTokens
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.fast import Fast, FastConfig
from vla_jax.tokens.fast_tokens import FastTokens
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.sequence import SequenceConfig
from vla_jax.tokens.tokenizer import Tokenizer

WORDS = ("Plan:", "Action:", "pick blue ball", "move red cube left", "<loc0003>")
TOKENIZER = Tokenizer.train([*WORDS, *map(str, range(16))], 256, 32)

LOCATIONS = tuple(map(TOKENIZER.id, ("<loc0000>", "<loc0001>")))


def legal(found, state, left):
    after = found.step[state][found.classes]
    return np.flatnonzero((after >= 0) & (found.need[np.maximum(after, 0)] < left))


def walk(found, choose):
    """Writes a text by the automaton: `choose` picks among the legal ids."""
    state, said = found.start, []
    for left in range(found.length, 0, -1):
        choices = legal(found, state, left)
        assert len(choices)
        said.append(int(choose(choices)))
        state = int(found.step[state, found.classes[said[-1]]])
        if not state:
            break
    assert not state
    return np.array(said)


def encoder_of(tokens, *, chunk=1, plan="none", suffix=40, most=6, tokenizer=TOKENIZER):
    return Encoder(
        tokenizer,
        {"arm": tokens},
        PromptsConfig(robot="plain", plan=plan),
        SequenceConfig(prefix=40, suffix=suffix, plan=most),
        chunk=chunk,
    )


@pytest.fixture(scope="module")
def fast_tokens(spec, statistics, actions):
    chunks = np.cumsum(np.random.default_rng(1).normal(0, 0.2, (300, 6, 4)), axis=1)
    fast = Fast.train([np.clip(chunks, -1, 1)], FastConfig(size=256))
    tokenizer = TOKENIZER.extended([f"<act{k}>" for k in range(len(fast.pieces))])
    ids = tuple(range(TOKENIZER.size, tokenizer.size))
    return tokenizer, FastTokens(spec, statistics, ids, fast)


@pytest.mark.parametrize("chunk", [1, 3])
def test_each_position_allows_exactly_its_bins(spec, statistics, chunk):
    ids = (9, 4, 30, 17, 5)
    found = ActionTokens(spec, statistics, ids).automaton(40, chunk, 4 * chunk)
    assert found.length == 4 * chunk
    state = found.start
    for position in range(4 * chunk):
        # terminate is the first of every action, and has two values
        allowed = {9, 4} if position % 4 == 0 else set(ids)
        assert set(legal(found, state, found.length - position)) == allowed
        state = found.step[state, found.classes[9]]


def test_terminate_may_stand_anywhere_in_the_action(spec, statistics):
    moved = dataclasses.replace(spec, discrete=(False, False, False, True))
    found = ActionTokens(moved, statistics, tuple(range(8))).automaton(8, 1, 4)
    state, counts = found.start, []
    for left in range(4, 0, -1):
        counts.append(len(legal(found, state, left)))
        state = found.step[state, found.classes[1]]
    assert counts == [8, 8, 8, 2]


def test_an_action_without_room_is_refused(spec, statistics):
    with pytest.raises(UserError, match=r"sequence\.suffix.*expected room for 8 .*room for 7"):
        ActionTokens(spec, statistics, tuple(range(8))).automaton(8, 2, 7)


def test_whatever_the_grammar_allows_can_be_decoded(spec, statistics):
    tokens = ActionTokens(spec, statistics, tuple(range(10, 26)))
    found = tokens.automaton(64, 2, 8)
    rng = np.random.default_rng(0)
    actions = np.concatenate([tokens.read(walk(found, rng.choice)) for _ in range(50)])
    assert set(actions[:, 0]) == {0.0, 1.0}
    low = np.where(np.array(spec.discrete), spec.low, np.minimum(spec.low, statistics.q01))
    assert (actions >= low - 1e-6).all()


@pytest.mark.parametrize("chunk", [1, 2, 6, 9])
def test_whatever_fast_is_allowed_to_write_is_a_whole_chunk(fast_tokens, chunk):
    tokenizer, tokens = fast_tokens
    for room in (4 * chunk, 60):
        found = tokens.automaton(tokenizer.size, chunk, room)
        rng = np.random.default_rng(chunk)
        choices = [rng.choice, max, min, lambda ids: ids[len(ids) // 2]]
        for choose in [*choices, *[rng.choice] * 40]:
            text = walk(found, choose)
            assert len(text) <= room
            values = tokens.read(text)
            assert values.shape == (chunk, 4)
            assert set(values[:, 0]) <= {0.0, 1.0}


def test_what_fast_writes_is_legal(fast_tokens, actions):
    tokenizer, tokens = fast_tokens
    found = tokens.automaton(tokenizer.size, 5, 60)
    for text in tokens.write(actions.reshape(-1, 5, 4)):
        follow = iter(text)
        np.testing.assert_array_equal(walk(found, lambda ids, f=follow: next(f)), text)


def test_fast_without_room_is_refused(fast_tokens):
    tokenizer, tokens = fast_tokens
    with pytest.raises(UserError, match=r"config\.sequence\.suffix.*found room for 1"):
        tokens.automaton(tokenizer.size, 9, 1)


@pytest.mark.parametrize("most", [1, 6])
@pytest.mark.parametrize("is_fast", [False, True])
def test_a_plan_is_text_until_action_and_then_the_grammar(
    spec, statistics, fast_tokens, is_fast, most
):
    tokenizer, tokens = fast_tokens
    if not is_fast:
        tokens = ActionTokens(
            spec, statistics, tuple(map(TOKENIZER.id, ("<loc0000>", "<loc0001>")))
        )
    encoder = encoder_of(tokens, plan="expert", most=most, tokenizer=tokenizer)
    opening, marker = encoder.plan_frame
    found = grammar.action(encoder, "arm")
    assert found.length <= encoder.layout.suffix - 1
    rng = np.random.default_rng(0)
    lengths = set()
    for choose in [max, min, *[rng.choice] * 60, *[_first_of(marker)] * 2]:
        text = walk(found, choose)
        plan, string = encoder.split(text)
        lead = len(text) - len(string)
        assert text[: len(opening)].tolist() == opening
        assert text[lead - len(marker) : lead].tolist() == marker
        np.testing.assert_array_equal(text[lead:], string)
        assert len(plan) <= most
        lengths.add(len(plan))
        assert not set(plan.tolist()) & {*tokens.ids, *tokenizer.special.ids}
        assert tokens.read(string).shape == (1, 4)
    assert lengths >= {0, most}


def _first_of(marker):
    """Chooses to end the plan at once."""
    return lambda ids: next((token for token in marker if token in ids), ids[0])


def test_what_training_writes_is_legal(spec, statistics, actions):
    tokens = ActionTokens(spec, statistics, LOCATIONS)
    encoder = encoder_of(tokens, plan="expert", most=12)
    found = grammar.action(encoder, "arm")
    for plan in ("", "pick blue ball", "move red cube left", "action plan action"):
        target = Target(prefix="pick", action=actions[:1], dataset="arm", episode=0, plan=plan)
        row, _, mask = encoder.encode(target)
        suffix = row[encoder.layout.prefix :][mask[encoder.layout.prefix :]]
        assert suffix[-1] == TOKENIZER.special.eos
        follow = iter(suffix)
        text = walk(found, lambda ids, f=follow: next(f))
        np.testing.assert_array_equal(text, suffix[:-1])
        words, string = encoder.split(text)
        assert TOKENIZER.decode(words.tolist()) == plan
        np.testing.assert_array_equal(
            tokens.read(string), tokens.decode(tokens.encode(actions[:1]))
        )


def test_a_plan_that_is_too_long_or_absent_is_refused(spec, statistics, actions):
    tokens = ActionTokens(spec, statistics, (20, 21))
    encoder = encoder_of(tokens, plan="expert", most=3)
    common = {"prefix": "pick", "action": actions[:1], "dataset": "arm", "episode": 7}
    with pytest.raises(UserError, match=r"plan 'move red cube left' is too long.*at most 3.*found"):
        encoder.encode(Target(plan="move red cube left", **common))
    with pytest.raises(UserError, match=r"example arm episode 7 step 0: no plan, which config\.pr"):
        encoder.encode(Target(**common))


def test_words_that_are_actions_cannot_frame_a_plan(spec, statistics):
    marker = TOKENIZER.encode("Action:")[0]
    encoder = encoder_of(ActionTokens(spec, statistics, (marker, 21)), plan="expert")
    with pytest.raises(UserError, match=r"config\.prompts\.plan: expected 'Plan:' and 'Action:'"):
        grammar.action(encoder, "arm")


def test_an_answer_may_be_any_text(spec, statistics):
    encoder = encoder_of(ActionTokens(spec, statistics, (20, 21)))
    found = grammar.answer(encoder)
    assert found.length == 40
    assert len(legal(found, found.start, 1)) == TOKENIZER.size
