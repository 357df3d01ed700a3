"""What one action of a robot means: names, units, frame, bounds."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from vla_jax.core.errors import UserError

# Of a float16. What is larger is no command in any unit; smaller outliers may be real, and the
# quantiles clip them.
LARGEST = 65504.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """The meaning of an action vector, dimension by dimension.

    Attributes:
      names: one name per dimension, e.g. `("terminate", "dx", ...)`.
      units: one unit per dimension, e.g. `"metres per step"`, `"radians per step"`, `"0..1"`.
      low: smallest command, in the unit.
      high: largest command, in the unit.
      discrete: True where a dimension is an integer coded as itself (terminate), not a range.
      frame: the coordinate frame of translations and rotations.
      gripper: the gripper convention in words, e.g. `"0 open, 1 closed, absolute"`.
      control_hz: commands per second.

    Raises:
      UserError: fields of different length, or bounds that are not low <= high.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    discrete: tuple[bool, ...]
    frame: str
    gripper: str
    control_hz: float

    def __post_init__(self) -> None:
        lengths = {
            len(getattr(self, field)) for field in ("names", "units", "low", "high", "discrete")
        }
        if len(lengths) != 1:
            raise UserError(
                f"action spec {self.names}: names, units, low, high, discrete differ in length",
                expected="one entry per dimension",
                found=f"lengths {sorted(lengths)}",
            )
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            if low > high:
                raise UserError(
                    f"action spec, dimension {name!r}",
                    expected="low <= high",
                    found=f"low {low}, high {high}",
                )

    @property
    def size(self) -> int:
        """The number of action dimensions."""
        return len(self.names)

    def impossible(self, actions: Float[np.ndarray, "... a"]) -> Bool[np.ndarray, "... a"]:
        """Marks the numbers that cannot be commands.

        These are what is not finite or larger than a float16 can be, integers beyond their bounds,
        and shares (0..1) that are beyond theirs by more than the whole range.
        """
        values, low, high = np.asarray(actions), np.asarray(self.low), np.asarray(self.high)
        share = np.array([unit == "0..1" for unit in self.units])
        # An integer may be off by what rounding takes away, a share by noise.
        margin = np.where(self.discrete, 0.5, np.where(share, high - low, np.inf))
        with np.errstate(invalid="ignore"):
            inside = (values >= low - margin) & (values <= high + margin)
            return ~(inside & (np.abs(values) <= LARGEST))

    def meant(self, dimension: int) -> str:
        """Says in words what a number of a dimension has to be."""
        low, high = self.low[dimension], self.high[dimension]
        if self.discrete[dimension]:
            return f"an integer in {low:g}..{high:g}"
        if self.units[dimension] == "0..1":
            return f"a number in {low:g}..{high:g}"
        return f"a finite number of at most {LARGEST:g} ({self.units[dimension]})"

    def to_json(self) -> dict[str, Any]:
        """Returns the spec as plain JSON values; `from_json` inverts it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ActionSpec":
        """Builds a spec from what `to_json` returned, after a trip through a JSON file."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**fields)
