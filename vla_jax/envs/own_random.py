"""Simulators that draw from NumPy's global generator, each with a state of its own."""

import contextlib
from collections.abc import Iterator

import numpy as np


class OwnRandom:
    """A state of NumPy's global generator that is in force only where it is asked for.

    Args:
      seed: 0..2^32-1.
    """

    def __init__(self, seed: int):
        self._state = np.random.RandomState(seed).get_state()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Puts the state in force, and back what was there; draws inside go on from the last."""
        outside = np.random.get_state()
        np.random.set_state(self._state)
        try:
            yield
        finally:
            self._state = np.random.get_state()
            np.random.set_state(outside)
