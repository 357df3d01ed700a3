"""What a model may write: answers, actions, and plans followed by actions."""

import itertools
from collections.abc import Sequence

import numpy as np

from vla_jax.core.errors import UserError
from vla_jax.tokens import automaton
from vla_jax.tokens.automaton import ILLEGAL, Automaton
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.prompts import MARKER, OPENING


def answer(encoder: Encoder) -> Automaton:
    """Returns the automaton of an answer: any token, until the end or out of slots."""
    written = np.arange(encoder.vocabulary) < encoder.tokenizer.size
    return automaton.text(written, encoder.tokenizer.special.eos, encoder.layout.suffix)


def action(encoder: Encoder, robot: str) -> Automaton:
    """Returns what a robot's prompt is answered with: a plan, if the run has any, and an action.

    Raises:
      UserError: the suffix has no room for it.
    """
    tokens, room = encoder.actions[robot], encoder.layout.suffix - 1
    if encoder.plan_frame is None:
        return tokens.automaton(encoder.vocabulary, encoder.chunk, room)
    plan = _plan(encoder, *encoder.plan_frame)
    string = tokens.automaton(encoder.vocabulary, encoder.chunk, room - plan.length)
    return automaton.then(plan, string, plan.length + string.length)


def _plan(encoder: Encoder, opening: Sequence[int], marker: Sequence[int]) -> Automaton:
    """Returns the automaton of `opening`, at most so many tokens of text, and `marker`.

    The text is free but for the tokens of actions and the special ones. A state knows how many
    tokens there were and how much of the marker they end with; where no more are allowed, what is
    missing of the marker is all that may follow.
    """
    text = np.arange(encoder.vocabulary) < encoder.tokenizer.size
    text[[*encoder.tokenizer.special.ids, *encoder.action_token_ids]] = False
    named = sorted({*opening, *marker})
    if not text[named].all():
        raise UserError(
            "config.prompts.plan",
            expected=f"{OPENING!r} and {MARKER!r} in tokens that are no action's",
            found=" ".join(map(encoder.tokenizer.token, named)),
            fix="Choose other rows: config.action_tokens",
        )
    # Classes: what is no text, other text, and every named token.
    classes = text.astype(np.int32)
    classes[named] = 2 + np.arange(len(named))
    kind = {token: 2 + k for k, token in enumerate(named)}
    most, long = encoder.layout.plan, len(marker)
    first = 1 + (most + 1) * long  # of the opening's states
    step = np.full((first + len(opening), 2 + len(named)), ILLEGAL, np.int32)

    def state(written: int, matched: int) -> int:
        return 0 if matched == long else 1 + min(written, most) * long + matched

    for written, matched in itertools.product(range(most + 1), range(long)):
        here = step[state(written, matched)]
        if written < most:
            here[1] = state(written + 1, 0)
            for token in named:
                after = _overlap([*marker[:matched], token], marker)
                here[kind[token]] = state(written + 1, after)
        here[kind[marker[matched]]] = state(written + 1, matched + 1)
    for k, token in enumerate(opening):
        last = k + 1 == len(opening)
        step[first + k, kind[token]] = state(0, 0) if last else first + k + 1
    return automaton.make(classes, step, first, len(opening) + most + long)


def _overlap(written: Sequence[int], marker: Sequence[int]) -> int:
    """Returns how many tokens at the end of what is written the marker begins with."""
    longest = min(len(written), len(marker))
    return next(
        n for n in range(longest, -1, -1) if [*written[len(written) - n :]] == [*marker[:n]]
    )
