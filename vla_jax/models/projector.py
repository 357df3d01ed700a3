"""Features of another kind -> embeddings of the decoder."""

import itertools
from typing import Literal

from flax import nnx

from vla_jax.core.arrays import Array, Float
from vla_jax.models import layers


class Projector(nnx.Module):
    """Image features -> image tokens.

    `linear` is PaliGemma's; `mlp2` and `mlp3` have a GELU (exact) between their layers, `mlp3` with
    four times the features in the first (openvla:prismatic/util/nn_utils.py).
    """

    def __init__(
        self,
        kind: Literal["linear", "mlp2", "mlp3"],
        features: int,
        width: int,
        init: layers.Initializer,
    ):
        sizes = {
            "linear": (features, width),
            "mlp2": (features, width, width),
            "mlp3": (features, 4 * features, width, width),
        }[kind]
        self.depth = len(sizes) - 1
        for i, (size, out) in enumerate(itertools.pairwise(sizes)):
            kernel = init.normal((size, out), ("patch", "embed"), size**-0.5)
            setattr(self, f"kernel{i}", kernel)
            setattr(self, f"bias{i}", init.constant((out,), ("norm",), 0))

    def __call__(self, x: Float[Array, "b p f"]) -> Float[Array, "b p d"]:
        """Returns one image token per patch."""
        for i in range(self.depth):
            if i:
                x = layers.activate(x, "gelu_exact")
            x = layers.dense(x, getattr(self, f"kernel{i}"), getattr(self, f"bias{i}"))
        return x


class StateProjector(nnx.Module):
    """A state vector -> one token: the MLP of PaLM-E, section 4; OpenVLA-OFT's with exact GELU."""

    def __init__(
        self,
        size: int,
        width: int,
        init: layers.Initializer,
        activation: layers.Activation = "gelu",
    ):
        self.activation: layers.Activation = activation
        self.up = init.normal((size, width), ("patch", "embed"), size**-0.5)
        self.up_bias = init.constant((width,), ("norm",), 0)
        self.down = init.normal((width, width), ("patch", "embed"), width**-0.5)
        self.down_bias = init.constant((width,), ("norm",), 0)

    def __call__(self, state: Float[Array, "b s"]) -> Float[Array, "b 1 d"]:
        """Returns the state's token."""
        x = layers.activate(layers.dense(state[:, None], self.up, self.up_bias), self.activation)
        return layers.dense(x, self.down, self.down_bias)
