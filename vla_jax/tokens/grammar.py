"""Which tokens may stand at each suffix position: an action is decoded under this mask only.

RT-2 (section 3.2) samples robot prompts among valid action tokens; here the set is per position,
so that `terminate` is a flag and never a distance. Training stays full-vocabulary.
"""

import numpy as np

from vla_jax.core.arrays import Bool
from vla_jax.tokens.action_tokens import ActionTokens


def action_mask(
    action_tokens: ActionTokens, vocabulary: int, chunk: int = 1
) -> Bool[np.ndarray, "t v"]:
    """Returns the legal tokens of an action string.

    Args:
      action_tokens: the id map and the action space.
      vocabulary: number of token ids.
      chunk: number of actions in the string.

    Returns:
      bool [chunk * a, v].
    """
    ids = np.asarray(action_tokens.ids)
    mask = np.zeros((action_tokens.spec.size, vocabulary), bool)
    for row, legal in zip(mask, action_tokens.legal_bins(), strict=True):
        row[ids[legal.start : legal.stop]] = True
    return np.tile(mask, (chunk, 1))
