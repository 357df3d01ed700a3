import dataclasses

import numpy as np
import pytest

from vla_jax.actions.statistics import Statistics
from vla_jax.core.batch import Example
from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.eval.open_loop import action_error
from vla_jax.tokens.action_tokens import ActionTokens
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.fast import Fast, FastConfig
from vla_jax.tokens.fast_tokens import FastTokens
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.sequence import SequenceConfig
from vla_jax.tokens.tokenizer import Tokenizer

RNG = np.random.default_rng(0)
LOW, HIGH = np.array(TABLETOP.spec.low), np.array(TABLETOP.spec.high)
ACTIONS = RNG.uniform(LOW, HIGH, (40, 8)).astype(np.float32)
ACTIONS[:, 0] = np.arange(40) % 2
TOKENS = ActionTokens(TABLETOP.spec, Statistics.of(ACTIONS), tuple(range(10, 266)))
EXAMPLES = [
    Example(
        images={"primary": (bytes([i]),)},
        prefix=f"do {i}",
        action=ACTIONS[i][None],
        action_mask=np.ones(1, bool),
        dataset="tabletop",
        episode=i,
    )
    for i in range(6)
]


def encoder_of(chunk, suffix):
    return Encoder(
        Tokenizer.train([example.prefix for example in EXAMPLES], 300, 0),
        {"tabletop": TOKENS},
        PromptsConfig(robot="plain"),
        SequenceConfig(suffix=suffix),
        chunk=chunk,
        rows=300,
    )


class Policy:
    """Repeats the demonstration, with an offset in dx."""

    action_tokens, encoder = TOKENS, encoder_of(chunk=1, suffix=10)

    def __init__(self, offset=0.0):
        self.offset = offset

    @property
    def observer(self):
        return self

    def read(self, example):
        return example.images["primary"][0][0]

    def act_batch(self, numbers, instructions):
        assert instructions == [f"do {n}" for n in numbers]
        values = ACTIONS[numbers][:, None].copy()
        values[..., 1] += self.offset
        return values, TOKENS.encode(values).reshape(len(numbers), -1)

    def score_batch(self, numbers, examples):
        assert [example.episode for example in examples] == list(numbers)
        nll = np.tile(np.arange(10, dtype=np.float32), (len(numbers), 1))  # <eos> and a free slot
        return nll, np.pad(TOKENS.encode(ACTIONS[numbers]), ((0, 0), (0, 2)))


def test_a_perfect_policy_has_no_error():
    found = action_error(Policy(), EXAMPLES)
    measures = ("error", "token_accuracy", "nll", "illegal")
    names = {f"{measure}/{name}" for measure in measures for name in TABLETOP.spec.names}
    assert set(found) == {"token_accuracy", "nll", "illegal", *names}
    assert (found["token_accuracy"], found["illegal"]) == (1, 0)
    assert {v for k, v in found.items() if k.startswith("error/")} == {0.0}
    assert {v for k, v in found.items() if k.startswith("token_accuracy/")} == {1.0}


def test_likelihoods_are_of_the_action_tokens_alone():
    found = action_error(Policy(), EXAMPLES)
    assert [found[f"nll/{name}"] for name in TABLETOP.spec.names] == list(range(8))
    assert found["nll"] == 3.5


def test_what_would_be_said_without_the_grammar_is_illegal_per_dimension():
    class Free(Policy):
        def score_batch(self, numbers, examples):
            nll, likeliest = super().score_batch(numbers, examples)
            likeliest[0, 0] = TOKENS.ids[2]  # `terminate` has two values
            likeliest[:3, 1] = 3  # no action token
            likeliest[:, 8:] = 3  # behind the action
            return nll, likeliest

    found = action_error(Free(), EXAMPLES)
    illegal = {name.partition("/")[2]: v for name, v in found.items() if "illegal/" in name}
    assert {name: v for name, v in illegal.items() if v} == {"terminate": 1 / 6, "dx": 3 / 6}
    assert found["illegal"] == pytest.approx(4 / 48)


def test_errors_are_in_robot_units_per_dimension():
    found = action_error(Policy(0.01), EXAMPLES)
    assert found["error/dx"] == pytest.approx(0.01, rel=1e-4)
    assert found["error/dy"] == found["error/terminate"] == 0
    assert found["token_accuracy"] == pytest.approx(7 / 8)
    assert (found["token_accuracy/dx"], found["token_accuracy/dy"]) == (0, 1)


def test_steps_beyond_the_episode_do_not_count():
    chunks = np.stack([ACTIONS[:6], ACTIONS[6:12]], axis=1)
    examples = [
        dataclasses.replace(example, action=chunk, action_mask=np.array([True, i % 2 == 0]))
        for i, (example, chunk) in enumerate(zip(EXAMPLES, chunks, strict=True))
    ]

    class Chunked(Policy):
        encoder = encoder_of(chunk=2, suffix=17)

        def act_batch(self, numbers, instructions):
            values = chunks[numbers].copy()
            values[1::2, 1, 1] += 1  # wrong where nobody looks
            return values, TOKENS.encode(values).reshape(len(numbers), -1)

        def score_batch(self, numbers, examples):
            nll = np.tile(np.arange(17.0), (len(numbers), 1))
            return nll, np.zeros(nll.shape, int)

    found = action_error(Chunked(), examples)
    assert (found["token_accuracy"], found["error/dx"]) == (1, 0)
    assert found["nll/terminate"] == pytest.approx((6 * 0 + 3 * 8) / 9)
    assert found["illegal"] == 1


def test_tokens_of_fast_are_compared_as_texts():
    chunks = ACTIONS.reshape(10, 4, 8)
    scale = FastTokens(TABLETOP.spec, TOKENS.statistics, (), Fast.train([chunks], FastConfig()))
    fast = Fast.train([scale.normalize(chunks)], FastConfig(size=200))
    ids = tuple(range(100, 100 + len(fast.pieces)))

    class Texts(Policy):
        action_tokens = FastTokens(TABLETOP.spec, TOKENS.statistics, ids, fast)
        encoder = Encoder(
            Policy.encoder.tokenizer,
            {"tabletop": action_tokens},
            PromptsConfig(robot="plain"),
            SequenceConfig(suffix=40),
            chunk=4,
        )

        def act_batch(self, numbers, instructions):
            texts = self.action_tokens.write(chunks[numbers])
            texts[0] = texts[0][:-1]  # one token is missing
            return chunks[numbers], np.stack([np.pad(t, (0, 40 - len(t))) for t in texts])

        def score_batch(self, numbers, examples):
            likeliest = np.full((len(numbers), 40), ids[0])
            likeliest[:, 1] = 3
            return np.ones((len(numbers), 40), np.float32), likeliest

    examples = [
        dataclasses.replace(e, action=chunks[i], action_mask=np.ones(4, bool))
        for i, e in enumerate(EXAMPLES)
    ]
    found = action_error(Texts(), examples)
    total = sum(map(len, Texts.action_tokens.write(chunks[:6])))
    assert found["token_accuracy"] == pytest.approx(1 - 1 / total)
    assert found["nll"] == 1
    assert found["illegal"] == pytest.approx(6 / total)
    assert not [name for name in found if name.startswith(("nll/", "token_accuracy/", "illegal/"))]
