"""Robot units <-> token ids by FAST: a chunk of actions is a short text of variable length.

It can be decoded under a grammar: every token stands for known numbers of coefficients, so that how
many are still to come says which tokens may follow, and the text ends when there are all of them.
"""

import numpy as np

from vla_jax.actions.normalize import Normalizer
from vla_jax.actions.spec import ActionSpec
from vla_jax.actions.statistics import Statistics
from vla_jax.core.arrays import Bool, Float, Int
from vla_jax.core.errors import UserError
from vla_jax.tokens import action_tokens, automaton
from vla_jax.tokens.automaton import ILLEGAL, NEVER, Automaton
from vla_jax.tokens.fast import Fast


class FastTokens:
    """Encodes chunks of actions and back, for one dataset's action space.

    Args:
      spec: the action space.
      statistics: of the dataset's actions, robot units.
      ids: the id of every token of FAST, its token 0 first.
      fast: the transform and its vocabulary.
    """

    def __init__(self, spec: ActionSpec, statistics: Statistics, ids: tuple[int, ...], fast: Fast):
        self.spec, self.statistics, self.ids, self.fast = spec, statistics, ids, fast
        self._ids = np.asarray(ids, np.int32)
        self._token_of = {token: k for k, token in enumerate(ids)}
        self._normalizer = Normalizer(statistics, spec)
        self._discrete = np.asarray(spec.discrete)

    @property
    def bounds(self) -> tuple[Float[np.ndarray, " a"], Float[np.ndarray, " a"]]:
        """What -1 and 1 stand for in robot units, see `Normalizer.bounds`."""
        return self._normalizer.bounds

    def normalize(self, actions: Float[np.ndarray, "... a"]) -> Float[np.ndarray, "... a"]:
        """Maps robot units to [-1, 1], which is what FAST transforms."""
        return self._normalizer.normalize(actions)

    def write(self, actions: Float[np.ndarray, "b n a"]) -> list[Int[np.ndarray, " t"]]:
        """Returns the token string of each chunk of actions, int32; values are clipped."""
        return [self._ids[tokens] for tokens in self.fast.encode(self.normalize(actions))]

    def read(self, string: Int[np.ndarray, " t"]) -> Float[np.ndarray, "n a"]:
        """Returns the chunk that a token string stands for, float32 in robot units.

        Raises:
          UserError: a token is none of FAST's, or they are no whole number of actions.
        """
        tokens = [self._token_of.get(int(token), -1) for token in string]
        if -1 in tokens:
            raise UserError(
                "FAST tokens", expected="ids of them", found=np.asarray(string).tolist()
            )
        x = np.clip(self.fast.decode(tokens, self.spec.size), -1, 1)
        values = self._normalizer.unnormalize(x)
        return np.where(self._discrete, np.rint(values), values).astype(np.float32)

    def supervised(self, inside: Bool[np.ndarray, "b n"]) -> None:
        """Every token is about all steps, the repeated last ones of an episode included."""

    def automaton(self, vocabulary: int, chunk: int, room: int) -> Automaton:
        """Returns what may be written: exactly the coefficients of `chunk` actions.

        A state is how many characters are still to come, and whether the next one has begun.

        Raises:
          UserError: there is no `room` for the shortest text.
        """
        kinds, kind = np.unique(self.fast.behaviours(), axis=0, return_inverse=True)
        classes = np.full(vocabulary, len(kinds), np.int32)
        classes[self._ids] = kind.ravel()
        left = np.arange(chunk * self.spec.size + 1)
        step = np.full((2 * len(left), len(kinds) + 1), ILLEGAL, np.int32)
        for k, (ends, count, begins) in enumerate(kinds):
            fits = left - count >= begins
            if ends >= 0:
                step[2 * left[fits] + ends, k] = 2 * (left[fits] - count) + begins
        found = automaton.make(classes, step, 2 * int(left[-1]), room)
        if (needed := int(found.need[found.start])) > room:
            if needed >= NEVER:
                raise UserError("FAST tokenizer", expected="tokens of single characters")
            raise action_tokens.no_room(needed, room)
        return found
