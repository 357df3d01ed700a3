"""TokenLearner: many features of an image -> a few tokens, each a weighted mean of them.

Sources: Ryoo et al. 2021; open_x_embodiment:models/rt1.py (version 1.1).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from vla_jax.core.arrays import Array, Float
from vla_jax.models import layers

_HIDDEN = 64


class TokenLearner(nnx.Module):
    """Features [b, p, d] -> tokens [b, n, d].

    Args:
      width: feature size d.
      tokens: n.
      init: makes parameters.
    """

    def __init__(self, width: int, tokens: int, init: layers.Initializer):
        self.norm_scale = init.constant((width,), ("norm",), 1)
        self.norm_bias = init.constant((width,), ("norm",), 0)
        std = (2 / (width + _HIDDEN)) ** 0.5
        self.hidden = init.normal((width, _HIDDEN), ("embed", "mlp"), std)
        self.hidden_bias = init.constant((_HIDDEN,), ("mlp",), 0)
        std = (2 / (_HIDDEN + tokens)) ** 0.5
        self.select = init.normal((_HIDDEN, tokens), ("mlp", "position"), std)
        self.select_bias = init.constant((tokens,), ("position",), 0)

    def __call__(self, x: Float[Array, "b p d"]) -> Float[Array, "b n d"]:
        """Returns the tokens; the weights come of normalised features, the means of plain ones."""
        y = layers.layer_norm(x, self.norm_scale[...], self.norm_bias[...])
        y = layers.activate(layers.dense(y, self.hidden, self.hidden_bias), "gelu")
        y = layers.dense(y, self.select, self.select_bias).astype(jnp.float32)
        weights = jax.nn.softmax(y, axis=1).astype(x.dtype)
        return jnp.einsum("bpn,bpd->bnd", weights, x)
