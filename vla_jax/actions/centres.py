"""Where bins lie that are not of one width: their centres; a value belongs to the nearest.

The edge between two bins is midway between their centres, so no centre of the same set could be
nearer to a value than the one that it is given.
"""

import numpy as np

from vla_jax.core.arrays import Float

MU = 255.0  # ITU-T G.711; WaveNet (van den Oord et al. 2016, section 2.2)


def mu_law(count: int) -> Float[np.ndarray, " n"]:
    """Returns ascending centres in (-1, 1), float32: dense around 0, where slow motions are.

    sign(u) ((1 + mu)^|u| - 1) / mu of evenly spaced u.
    """
    u = (np.arange(count) + 0.5) / count * 2 - 1
    return (np.sign(u) * np.expm1(np.abs(u) * np.log1p(MU)) / MU).astype(np.float32)


def quantile(values: Float[np.ndarray, " steps"], count: int) -> Float[np.ndarray, " n"]:
    """Returns ascending centres at the quantiles of a dimension: bins that are used equally.

    Centres are values that occur. One that occurs in many steps (a gripper's 0 and 1, a joint at
    rest) takes one centre, exactly where it is, and what it would have taken more goes to the
    quantiles of the others; with fewer distinct values than bins, the rest halves the widest gaps.

    Args:
      values: at least one, in [-1, 1].
      count: how many centres.

    Returns:
      float32 [count] in [-1, 1], no two alike.
    """
    rest = np.sort(values.astype(np.float32))
    chosen = rest[:0]
    while len(chosen) < count and len(rest):
        left = count - len(chosen)
        chosen = np.union1d(chosen, rest[((np.arange(left) + 0.5) / left * len(rest)).astype(int)])
        rest = rest[~np.isin(rest, chosen)]
    while len(chosen) < count:
        walls = np.concatenate([[-1], chosen, [1]])
        widest = np.argmax(np.diff(walls))
        chosen = np.insert(chosen, widest, walls[widest : widest + 2].mean())
    return chosen.astype(np.float32)
