"""Automata against their own definition, walked token by token."""

import numpy as np
import pytest

from vla_jax.tokens import automaton
from vla_jax.tokens.automaton import NEVER


def legal(found, state, left):
    """Which ids may stand in a state with room for `left` tokens."""
    after = found.step[state][found.classes]
    return set(np.flatnonzero((after >= 0) & (found.need[np.maximum(after, 0)] < left)))


def after(found, state, token):
    return int(found.step[state, found.classes[token]])


def test_positions_allow_exactly_their_ids_whatever_stood_before():
    mask = np.random.default_rng(0).random((5, 40)) < 0.3
    mask[:, 0] = [True, False, True, False, True]  # id 0 may be an action, too
    found = automaton.positions(mask)
    assert found.length == 5
    state = found.start
    for place, row in enumerate(mask):
        allowed = legal(found, state, 5 - place)
        assert allowed == set(np.flatnonzero(row))
        states = {after(found, state, token) for token in allowed}
        assert len(states) == 1
        (state,) = states
    assert state == 0
    assert legal(found, 0, 1) == {0}  # behind the end only zeros


def test_text_ends_with_its_end_or_is_cut_off():
    found = automaton.text(np.arange(10) < 8, 1, 3)
    assert legal(found, found.start, 3) == legal(found, found.start, 1) == set(range(8))
    assert after(found, found.start, 5) == found.start
    assert after(found, found.start, 1) == 0


def test_one_text_follows_another():
    first = automaton.positions(np.eye(6, dtype=bool)[[2, 3]])
    second = automaton.positions(np.eye(6, dtype=bool)[[4, 2, 0]])
    found = automaton.then(first, second, 5)
    state, said = found.start, []
    for left in range(5, 0, -1):
        (token,) = legal(found, state, left)
        said.append(int(token))
        state = after(found, state, token)
    assert said == [2, 3, 4, 2, 0]
    assert state == 0


def test_a_token_that_leads_nowhere_is_illegal_and_room_is_kept_for_the_end():
    # From 1, token 1 goes the long way 1 -> 2 -> 3 -> 0, token 2 ends, token 3 is a trap.
    step = np.full((5, 5), -1)
    step[1, 1], step[1, 2], step[1, 3] = 2, 0, 4
    step[2, 1], step[3, 1], step[4, 4] = 3, 0, 4
    found = automaton.make(np.arange(5), step, 1, 3)
    assert found.need.tolist() == [0, 1, 2, 1, NEVER]
    assert legal(found, 1, 3) == {1, 2}
    assert legal(found, 1, 2) == {2}


def test_nothing_follows_a_text_that_may_be_cut_off():
    free = automaton.text(np.array([False, True, True]), 2, 4)
    with pytest.raises(ValueError, match="cut off"):
        automaton.then(free, automaton.positions(np.eye(3, dtype=bool)), 7)


@pytest.mark.parametrize("seed", range(20))
def test_random_automata_end_in_time_whatever_is_chosen(seed):
    rng = np.random.default_rng(seed)
    states, vocabulary = int(rng.integers(3, 12)), 9
    step = rng.integers(-states, states, (states, vocabulary)).clip(-1)
    found = automaton.make(np.arange(vocabulary), step, states - 1, 12)
    if found.need[found.start] > 12:
        pytest.skip("no way to the end")
    for _ in range(30):
        state = found.start
        for left in range(12, 0, -1):
            choices = sorted(legal(found, state, left))
            assert choices
            state = after(found, state, choices[rng.integers(len(choices))])
        assert state == 0
