"""The rules that several tests spell out step by step, as the field describes them."""

import types

import numpy as np
import pytest


def opened_by_commands(commands):
    """Walks one episode: + closes, - opens, near 0 keeps; before the first, the opposite of it."""
    first = next((c for c in commands if abs(c) > 0.1), None)
    is_open = True if first is None else first > 0
    out = []
    for command in commands:
        if command > 0.1:
            is_open = False
        elif command < -0.1:
            is_open = True
        out.append(float(is_open))
    return out


def binarized(values):
    """Walks one episode backwards: near 1 opens, near 0 closes, between takes what follows."""
    following, out = float(values[-1]), []
    for value in reversed(values):
        if value > 0.95 or value < 0.05:
            following = float(value > 0.95)
        out.append(following)
    return out[::-1]


def stack(episodes):
    """Joins the rows of all episodes: float32 [i, a]."""
    return np.array([row for rows in episodes for row in rows], np.float32)


@pytest.fixture(scope="session")
def plain():
    """The plain loops, by name."""
    return types.SimpleNamespace(
        opened_by_commands=opened_by_commands, binarized=binarized, stack=stack
    )
