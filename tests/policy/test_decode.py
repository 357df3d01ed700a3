"""Decoding over the cache is teacher forcing token by token, and a mask is a law."""

import jax
import numpy as np
import pytest
from flax import nnx

from vla_jax.actions.normalize import Normalizer
from vla_jax.actions.statistics import Statistics
from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.policy.decode import Rules, make_decoder
from vla_jax.policy.observation import stack
from vla_jax.tokens import automaton, grammar
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.fast import Fast, FastConfig
from vla_jax.tokens.fast_tokens import FastTokens
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.sequence import SequenceConfig
from vla_jax.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def mask(tiny):
    """Which ids may stand at each of the 8 positions of an action, written out."""
    tokens, size = tiny.policy.encoder.actions["tabletop"], tiny.policy.encoder.tokenizer.size
    mask = np.zeros((8, size), bool)
    mask[0, list(tokens.ids[:2])] = True
    mask[1:, list(tokens.ids)] = True
    return mask


@pytest.fixture(scope="module")
def decoders(tiny, mask):
    """Decoders by the mask they obey: every token allowed, or the grammar."""
    return {
        free: (legal, make_decoder(tiny.graph, automaton.positions(legal)))
        for free, legal in ((True, np.ones_like(mask)), (False, mask))
    }


@pytest.fixture(scope="module")
def asked(tiny, observations):
    """Images by name, prefix slots and prefix lengths."""
    seen, instructions = observations
    prefixes = [tiny.policy.encoder.prefix(text, robot=True) for text in instructions]
    length = np.array([length for _, length in prefixes], np.int32)
    assert len(set(length)) > 1  # There is padding to go wrong.
    return stack(seen), np.stack([row for row, _ in prefixes]), length


@pytest.mark.parametrize("free", [False, True])
def test_cached_greedy_is_the_argmax_of_teacher_forcing(tiny, decoders, asked, free):
    images, prefix, length = asked
    legal, decode = decoders[free]
    decoded = np.asarray(decode(tiny.policy.params, prefix, length, **images))
    assert len(np.unique(decoded)) > 10

    @jax.jit
    def force(params, tokens):
        model = nnx.merge(tiny.graph, params)
        return model.logits(tokens=tokens, prefix_length=length, prefix=prefix.shape[1], **images)

    logits = force(tiny.policy.params, np.concatenate([prefix, decoded], axis=1))
    forced = np.where(legal, logits, -np.inf).argmax(axis=-1)
    np.testing.assert_array_equal(decoded, forced)


def test_a_row_does_not_depend_on_its_batch(tiny, observations):
    images, instructions = observations
    _, together = tiny.policy.act_batch(images, instructions)
    _, alone = tiny.policy.act_batch(images[3:4], instructions[3:4])
    np.testing.assert_array_equal(together[3:4], alone)
    assert len(np.unique(together, axis=0)) > 20


def test_more_padding_changes_nothing(tiny, decoders, asked):
    images, prefix, length = asked
    _, decode = decoders[False]
    wider = np.pad(prefix, [(0, 0), (5, 0)])
    np.testing.assert_array_equal(
        decode(tiny.policy.params, prefix, length, **images),
        decode(tiny.policy.params, wider, length, **images),
    )


def test_illegal_tokens_are_impossible_whatever_the_logits(tiny, mask, decoders, asked):
    embedding = np.array(tiny.policy.params["decoder"]["embedding"])
    # Rows this long win every free argmax.
    illegal = ~mask.any(axis=0)
    noise = np.random.default_rng(0).standard_normal(embedding.shape, np.float32)
    embedding[illegal] = 50 * noise[illegal]
    params = {**tiny.policy.params}
    params["decoder"] = {**params["decoder"], "embedding": embedding}
    images, *prefix = asked
    free, held = (
        np.asarray(decoders[free][1](params, *prefix, **images)) for free in (True, False)
    )
    assert illegal[free].all()
    assert mask[np.arange(len(mask)), held].all()


@pytest.mark.parametrize("worst", [-np.inf, np.nan, np.finfo(np.float32).min])
def test_a_legal_token_is_chosen_where_no_legal_logit_is_above_the_worst(mask, worst):
    rules = Rules.of(automaton.positions(mask))
    state = np.full(3, rules.start, np.int32)
    for place, row in enumerate(mask):
        logits = np.where(row, worst, np.inf)[None].repeat(3, axis=0).astype(np.float32)
        logits[1] = worst
        logits[2] = np.random.default_rng(place).normal(size=mask.shape[1]) * 1e30
        token, state = rules.choose(logits, state, len(mask) - place)
        assert row[np.asarray(token)].all()
        assert token[2] == np.where(row, logits[2], -np.inf).argmax()
    assert (np.asarray(state) == 0).all()


@pytest.fixture(scope="module")
def planner():
    """An encoder whose suffixes are plans and FAST chunks of three actions."""
    spec = TABLETOP.spec
    chunks = np.random.default_rng(0).uniform(spec.low, spec.high, (200, 3, 8)).astype(np.float32)
    statistics = Statistics.of(chunks.reshape(-1, 8))
    scale = Normalizer(statistics, spec)
    fast = Fast.train([scale.normalize(chunks)], FastConfig(size=120))
    tokenizer = Tokenizer.train(["Plan:", "Action:", "pick blue ball"], 200, 0)
    longer = tokenizer.extended([f"<act{k}>" for k in range(len(fast.pieces))])
    ids = tuple(range(tokenizer.size, longer.size))
    return Encoder(
        longer,
        {"tabletop": FastTokens(spec, statistics, ids, fast)},
        PromptsConfig(robot="plain", plan="expert"),
        SequenceConfig(suffix=60, plan=5),
        chunk=3,
    )


@pytest.mark.parametrize("hostile", ["-inf", "nan", "noise", "illegal first"])
def test_plans_and_chunks_are_whole_whatever_the_logits(planner, hostile):
    found = grammar.action(planner, "tabletop")
    rules, choose = Rules.of(found), jax.jit(Rules.choose)
    rng, state, written = np.random.default_rng(1), np.full(4, found.start, np.int32), []
    for place in range(found.length):
        logits = rng.normal(size=(4, planner.vocabulary)).astype(np.float32) * 1e30
        after = found.step[state][:, found.classes]
        legal = (after >= 0) & (found.need[np.maximum(after, 0)] < found.length - place)
        assert legal.any(axis=1).all()
        if hostile != "noise":
            logits[legal] = {"-inf": -np.inf, "nan": np.nan}.get(hostile, -3e38)
            logits[~legal] = np.inf
        token, state = map(np.asarray, choose(rules, logits, state, found.length - place))
        assert legal[np.arange(4), token].all()
        written.append(token)
    assert (state == 0).all()
    for row in np.stack(written, axis=1):
        plan, string = planner.split(row)
        assert len(plan) <= 5
        assert planner.actions["tabletop"].read(string).shape == (3, 8)


def test_what_has_ended_is_followed_by_zeros(tiny, asked):
    """Text of one or two tokens, some of which end before others."""
    images, prefix, length = asked
    size = tiny.policy.encoder.tokenizer.size
    ids = np.arange(size)
    decode = make_decoder(tiny.graph, automaton.text(ids % 2 == 0, 7, 6))
    decoded = np.asarray(decode(tiny.policy.params, prefix, length, **images))
    ended = np.cumsum(decoded == 7, axis=1) > 0
    behind = np.pad(ended, [(0, 0), (1, 0)])[:, :-1]
    assert (decoded[behind] == 0).all()
    before = decoded[~behind]
    assert ((before % 2 == 0) | (before == 7)).all()
    open_rows = decode(
        tiny.policy.params, prefix[:1], length[:1], **{k: v[:1] for k, v in images.items()}
    )
    np.testing.assert_array_equal(open_rows, decoded[:1])


def test_terminate_is_one_of_two_tokens(tiny, observations):
    _, tokens = tiny.policy.act_batch(*observations)
    assert set(tokens[:, 0]) <= set(tiny.policy.encoder.actions["tabletop"].ids[:2])
