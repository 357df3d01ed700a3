"""How far predicted actions are from the demonstrated ones, in the units of each robot.

Teacher-forced and without the grammar: the likeliest token of every action slot, given the true
ones before it. A slot whose likeliest token is none that may stand there counts as illegal. A plan
before the action is passed over. A token of FAST is a part of many numbers: whether it is one of
FAST's is all that is asked of it.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from vla_jax.core.arrays import Array, Bool, Float, Int
from vla_jax.tokens.action_tokens import ActionTokens
from vla_jax.tokens.fast_tokens import FastTokens

_ALL = np.iinfo(np.int32).max


class ActionErrors:
    """Sums of errors per mixture source and suffix slot, to be traced into the train step.

    Args:
      names: the mixture sources, as `Batch.source` numbers them.
      actions: the action tokens of those that are robots; they share their ids.
      vocabulary: number of token ids.
      chunk: actions of an example, one after the other in the suffix.
    """

    def __init__(
        self,
        names: Sequence[str],
        actions: Mapping[str, ActionTokens | FastTokens],
        vocabulary: int,
        chunk: int,
    ):
        self._names, self._actions, self._chunk = tuple(names), dict(actions), chunk
        self._binned = {k for k, tokens in actions.items() if isinstance(tokens, ActionTokens)}
        sizes = [
            actions[name].spec.size if name in self._binned else int(name in actions)
            for name in names
        ]
        count = max((len(tokens.ids) for tokens in actions.values()), default=0)
        self._sizes = np.array(sizes)
        # Tokens of a chunk: those of FAST are as many as there are.
        self._ends = np.where([name in self._binned for name in names], chunk * self._sizes, _ALL)
        self._bins = np.full(vocabulary, -1, np.int32)
        self._values = np.zeros((len(names), max(sizes, default=0), count), np.float32)
        self._legal = np.zeros(self._values.shape[:2], np.int32)
        for i, name in enumerate(names):
            if name not in actions:
                continue
            tokens = actions[name]
            ids = np.asarray(tokens.ids)
            self._bins[ids] = np.arange(count)
            if not isinstance(tokens, ActionTokens):
                self._legal[i] = count
                continue
            every = np.broadcast_to(ids[:, None], (count, sizes[i]))
            self._values[i, : sizes[i]] = tokens.decode(every).T
            self._legal[i, : sizes[i]] = [bins.stop for bins in tokens.legal_bins()]

    def sums(
        self,
        predicted: Int[Array, "b n"],
        targets: Int[Array, "b n"],
        mask: Bool[Array, "b n"],
        source: Int[Array, " b"],
    ) -> dict[str, Float[Array, "m n"]]:
        """Returns sums per source and action token of the example, the first one first.

        Args:
          predicted: the likeliest token of every suffix slot.
          targets: the token that stands there.
          mask: True where a slot is supervised.
          source: mixture source of each example, 0..m-1.

        Returns:
          `action_error` (absolute, robot units, of legal predictions), `action_legal` and
          `action_slots` (how many); nothing where no source is a robot.
        """
        if not self._actions:
            return {}
        slots, of_source = targets.shape[1], source[:, None]
        bins, wanted = (jnp.asarray(self._bins)[tokens] for tokens in (predicted, targets))
        # The number of an action token among those of its example; a plan has none.
        number = jnp.cumsum(wanted >= 0, axis=1) - 1
        dimension = number % jnp.asarray(np.maximum(self._sizes, 1))[of_source]
        is_action = number < jnp.asarray(np.where(self._sizes > 0, self._ends, 0))[of_source]
        counted = is_action & mask & (wanted >= 0)
        legal = (
            counted & (bins >= 0) & (bins < jnp.asarray(self._legal)[source[:, None], dimension])
        )
        values = jnp.asarray(self._values)
        of = [values[source[:, None], dimension, jnp.maximum(k, 0)] for k in (bins, wanted)]
        parts = {
            "action_error": jnp.where(legal, jnp.abs(of[0] - of[1]), 0),
            "action_legal": legal.astype(jnp.float32),
            "action_slots": counted.astype(jnp.float32),
        }
        member = (source[:, None] == jnp.arange(len(self._names))[None, :]).astype(jnp.float32)
        place = (number[..., None] == jnp.arange(slots)[None, None]).astype(jnp.float32)
        return {
            name: jnp.einsum("bn,bnj,bm->mj", part, place, member) for name, part in parts.items()
        }

    def measured(self, name: str) -> list[str]:
        """Returns `SOURCE/DIMENSION` of what `metrics` has of a robot's dimensions."""
        if name not in self._binned:
            return []
        return [f"{name}/{dimension}" for dimension in self._actions[name].spec.names]

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Turns sums into means over the steps and the chunk they cover.

        Returns:
          `error/SOURCE/DIMENSION`, mean absolute error in the robot's unit, and the share of action
          slots whose likeliest token is illegal, 0..1: `illegal/SOURCE/DIMENSION`, and of all
          `illegal/SOURCE`. What has no example is left out.
        """
        out: dict[str, float] = {}
        for i, name in enumerate(self._names):
            if name not in self._actions:
                continue
            size = self._sizes[i]
            error, legal, slots = (
                np.asarray(sums[f"action_{part}"][i][: self._ends[i]]).reshape(-1, size).sum(axis=0)
                for part in ("error", "legal", "slots")
            )
            for k, which in enumerate(self.measured(name)):
                if legal[k]:
                    out[f"error/{which}"] = float(error[k] / legal[k])
                if slots[k]:
                    out[f"illegal/{which}"] = float(1 - legal[k] / slots[k])
            if slots.sum():
                out[f"illegal/{name}"] = float(1 - legal.sum() / slots.sum())
        return out
