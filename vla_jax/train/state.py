"""What training carries from step to step."""

import dataclasses
from collections.abc import Mapping
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
      params: nested dict of arrays, those that are trained.
      frozen: nested dict of arrays that take no gradient; `{}` if all are trained.
      optimizer: the state of the gradient transformation.
      ema: running average of `params`; None if there is none.
    """

    step: jax.Array
    params: Any
    optimizer: Any
    frozen: Any = dataclasses.field(default_factory=dict)
    ema: Any = None

    @classmethod
    def create(
        cls,
        params: Any,
        optimizer: optax.GradientTransformation,
        frozen: Any = None,
        *,
        averaged: bool = False,
    ) -> "TrainState":
        """Returns the state before the first update."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            frozen={} if frozen is None else frozen,
            optimizer=optimizer.init(params),
            # Copies: no buffer may be donated twice.
            ema=jax.tree.map(jnp.copy, params) if averaged else None,
        )

    @property
    def best(self) -> Any:
        """The trained parameters to act with: their average, if there is one."""
        return self.params if self.ema is None else self.ema

    def saved(self) -> dict[str, Any]:
        """Returns what a checkpoint holds; `params` is what to act with, frozen ones stay out."""
        arrays = {"params": self.best, "optimizer": self.optimizer, "step": self.step}
        return arrays if self.ema is None else arrays | {"trained": self.params}

    @classmethod
    def of(cls, saved: Mapping[str, Any], frozen: Any) -> "TrainState":
        """Puts together what `saved` took apart."""
        averaged = "trained" in saved
        return cls(
            step=saved["step"],
            params=saved["trained" if averaged else "params"],
            frozen=frozen,
            optimizer=saved["optimizer"],
            ema=saved["params"] if averaged else None,
        )
