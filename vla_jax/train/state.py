"""What training carries from step to step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """Parameters and optimizer state, plain pytrees of arrays.

    Attributes:
      step: int32 [], updates done.
      params: nested dict of arrays.
      optimizer: the state of the gradient transformation.
    """

    step: jax.Array
    params: Any
    optimizer: Any

    @classmethod
    def create(cls, params: Any, optimizer: optax.GradientTransformation) -> "TrainState":
        """Returns the state before the first update."""
        return cls(step=jnp.zeros((), jnp.int32), params=params, optimizer=optimizer.init(params))
