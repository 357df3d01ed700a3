"""Heads that read actions as numbers from hidden states, and the loss of what they say.

Source: openvla-oft:prismatic/models/action_heads.py.
"""

import jax.numpy as jnp
from flax import nnx

from vla_jax.core.arrays import Array, Bool, Float
from vla_jax.models import layers

_EPSILON = 1e-5  # of LayerNorm in PyTorch


class ResidualBlock(nnx.Module):
    """x + relu(linear(norm(x))); parameters carry a leading `layers` axis when `init` stacks."""

    def __init__(self, width: int, init: layers.Initializer):
        self.norm_scale = init.constant((width,), ("norm",), 1)
        self.norm_bias = init.constant((width,), ("norm",), 0)
        self.linear = init.normal((width, width), ("patch", "embed"), width**-0.5)
        self.linear_bias = init.constant((width,), ("norm",), 0)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Adds to the residual stream."""
        y = layers.layer_norm(x, self.norm_scale[...], self.norm_bias[...], _EPSILON)
        return x + layers.activate(layers.dense(y, self.linear, self.linear_bias), "relu")


class MLPResNet(nnx.Module):
    """Features -> numbers: two residual blocks between two linear layers.

    OpenVLA-OFT's L1 head is this network; its diffusion head, the same one, says noise.

    Args:
      features: size of the input.
      width: of the residual stream.
      outputs: how many numbers.
      rngs: key stream `params`.
      dtype: dtype of the parameters.
    """

    blocks_count = 2

    def __init__(self, features: int, width: int, outputs: int, rngs: nnx.Rngs, dtype: jnp.dtype):
        init = layers.Initializer(rngs, dtype)
        self.first_norm_scale = init.constant((features,), ("norm",), 1)
        self.first_norm_bias = init.constant((features,), ("norm",), 0)
        self.first = init.normal((features, width), ("mlp", "embed"), features**-0.5)
        self.first_bias = init.constant((width,), ("norm",), 0)
        self.blocks = ResidualBlock(width, layers.Initializer(rngs, dtype, self.blocks_count))
        self.last_norm_scale = init.constant((width,), ("norm",), 1)
        self.last_norm_bias = init.constant((width,), ("norm",), 0)
        self.last = init.normal((width, outputs), ("embed", "mlp"), width**-0.5)
        self.last_bias = init.constant((outputs,), ("norm",), 0)

    def __call__(self, x: Float[Array, "b n f"]) -> Float[Array, "b n a"]:
        """Returns the numbers of each vector of features."""
        x = layers.layer_norm(x, self.first_norm_scale[...], self.first_norm_bias[...], _EPSILON)
        x = layers.activate(layers.dense(x, self.first, self.first_bias), "relu")
        x, _ = layers.run_stack(
            self.blocks, lambda block, x, _: (block(x), None), x, unroll=self.blocks_count
        )
        x = layers.layer_norm(x, self.last_norm_scale[...], self.last_norm_bias[...], _EPSILON)
        return layers.dense(x, self.last, self.last_bias)


def l1(
    predicted: Float[Array, "b n a"],
    actions: Float[Array, "b n a"],
    mask: Bool[Array, "b n a"] | None = None,
) -> Float[Array, " b"]:
    """Returns the mean absolute difference of each example's chunk, float32.

    Args:
      predicted: normalised actions.
      actions: normalised actions of the demonstration.
      mask: False where there is none (beyond the episode, the robot's dimensions, in a web
        example); an example without any has loss 0. None for all.
    """
    error = jnp.abs(predicted.astype(jnp.float32) - actions.astype(jnp.float32))
    if mask is None:
        return jnp.mean(error, axis=(1, 2))
    count = jnp.sum(mask, axis=(1, 2))
    return jnp.sum(jnp.where(mask, error, 0), axis=(1, 2)) / jnp.maximum(count, 1)
