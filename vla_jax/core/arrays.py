"""The glossary of axes and the array aliases that every signature uses.

    b batch            t text tokens (prefix and suffix slots)    p image patches
    s = p * views + t  d width                                    h k heads, head size
    v vocabulary       y x c image rows, columns, channels        a action dimensions
    n action chunk     w observation window                       l stacked layers

Annotations read `Float[Array, "b s d"]`; a single axis is written with a leading space, `" b"`.
"""

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Array = jax.Array | np.ndarray

__all__ = ["Array", "Bool", "Float", "Int", "UInt8"]
