"""Statistics of one dataset's actions, per dimension; they travel with checkpoint and export."""

import dataclasses
from typing import Any

import numpy as np

from vla_jax.core.arrays import Float
from vla_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
    """Per-dimension statistics of actions in robot units.

    Attributes:
      q01: 1% quantile, one value per dimension.
      q99: 99% quantile.
      mean: mean.
      std: standard deviation.
      low: minimum.
      high: maximum.
      count: number of time steps they were taken over.
    """

    q01: tuple[float, ...]
    q99: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    count: int

    @classmethod
    def of(cls, actions: Float[np.ndarray, "steps a"]) -> "Statistics":
        """Computes the statistics of `actions` [steps, a], robot units.

        Raises:
          UserError: there are no steps, or a value is not finite.
        """
        if not len(actions):
            raise UserError("action statistics: the dataset has no training step")
        if not np.isfinite(actions).all():
            step, dimension = np.argwhere(~np.isfinite(actions))[0]
            raise UserError(
                f"action statistics: step {step}, dimension {dimension}",
                expected="finite numbers",
                found=actions[step, dimension],
            )
        x = actions.astype(np.float64)
        q01, q99 = np.quantile(x, [0.01, 0.99], axis=0)
        rows = (q01, q99, x.mean(0), x.std(0), x.min(0), x.max(0))
        names = ("q01", "q99", "mean", "std", "low", "high")
        values = {name: tuple(map(float, row)) for name, row in zip(names, rows, strict=True)}
        return cls(**values, count=len(x))

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values; `from_json` inverts it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Statistics":
        """Builds statistics from what `to_json` returned, after a trip through a JSON file."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**fields)
