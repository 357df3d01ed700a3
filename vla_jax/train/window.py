"""The steps since the last line of metrics: what they summed up to, kept over a resumption.

Nothing waits for the devices before a line is due; then the metrics of all steps since are fetched
at once. Sums are added in float64 one step after the other, so that a run that was stopped anywhere
and resumed writes the very numbers of one that was not.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failed:
    """A step whose loss or gradient was not finite.

    Attributes:
      step: the step.
      loss: of its batch, nats.
      gradient_norm: of its batch.
      example_loss: float32 [b], on the devices.
    """

    step: int
    loss: float
    gradient_norm: float
    example_loss: Any


class Window:
    """Collects the metrics of steps.

    Args:
      saved: what `state` returned where the run that goes on was saved.
    """

    def __init__(self, saved: Mapping[str, Any] | None = None):
        saved = saved or {"steps": 0, "last": {}, "sums": {}}
        self._pending: list[tuple[int, dict[str, Any]]] = []
        self._steps: int = saved["steps"]
        self._last: dict[str, float] = dict(saved["last"])
        self._sums = {name: np.array(values) for name, values in saved["sums"].items()}

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        """Takes the metrics of a train step as they are, on the devices."""
        self._pending.append((step, metrics))

    def settle(self) -> list[Failed]:
        """Waits for all steps so far and adds them up, but for those not finite; returns these."""
        failed: list[Failed] = []
        kept = ("loss", "gradient_norm", "finite", "sums")  # losses by example stay where they are
        fetched = jax.device_get([{name: m[name] for name in kept} for _, m in self._pending])
        for (step, metrics), values in zip(self._pending, fetched, strict=True):
            last = {name: float(values[name]) for name in ("loss", "gradient_norm")}
            if not values["finite"]:
                failed.append(Failed(step=step, example_loss=metrics["example_loss"], **last))
                continue
            self._last = last
            self._steps += 1
            for name, value in values["sums"].items():
                self._sums[name] = self._sums.get(name, 0) + np.asarray(value, np.float64)
        self._pending.clear()
        return failed

    @property
    def steps(self) -> int:
        """Steps added up."""
        return self._steps

    @property
    def last(self) -> Mapping[str, float]:
        """`loss` and `gradient_norm` of the last step added up; empty where there is none."""
        return self._last

    @property
    def sums(self) -> Mapping[str, np.ndarray]:
        """The sums by name, float64; empty where no step is added up."""
        return self._sums

    def clear(self) -> None:
        """Begins anew, behind a line of metrics."""
        self._steps, self._last, self._sums = 0, {}, {}

    def state(self) -> dict[str, Any]:
        """Returns what is added up, as JSON values."""
        sums = {name: values.tolist() for name, values in self._sums.items()}
        return {"steps": self._steps, "last": self._last, "sums": sums}
