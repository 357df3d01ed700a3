"""How fast a run is, and how much of the hardware it uses."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from vla_jax.train.loop import Clock, Feed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """What a step asks of the hardware.

    Attributes:
      batch_size: examples of the global batch.
      devices: devices of all processes.
      images: images of an example.
      prefix: prefix slots.
      suffix: suffix slots.
      flops: (images, prefix tokens, suffix tokens of an example) -> model FLOPs of training on it.
      tokens: likewise -> tokens that the decoder sees.
      peak: FLOP/s of one device; None where its kind is not known.
    """

    batch_size: int
    devices: int
    images: int
    prefix: int
    suffix: int
    flops: Callable[[int, int, int], float]
    tokens: Callable[[int, int, int], int]
    peak: float | None


class Speed:
    """Measures between two lines of metrics.

    Args:
      workload: what a step asks.
      clock: seconds of training.
      feed: seconds of waiting for data.
      step: where it begins.
    """

    def __init__(self, workload: Workload, clock: Clock, feed: Feed, step: int):
        self._workload, self._clock, self._feed = workload, clock, feed
        self._mark = (step, clock.seconds(), feed.waited)

    def since(self, step: int, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Returns the speed since the last call, as of `step`.

        Args:
          step: steps done.
          sums: per source, of some steps: `examples`, `images`, `prefix`, `tokens`, see
            `loss.source_sums`.

        Returns:
          `speed/step_ms`, `speed/input_wait_ms` (of which the loop waited for a batch),
          `speed/samples` and `speed/tokens` (valid ones) per second and device, and where the chip
          is known `speed/mfu` (0..1, of all slots) and `speed/useful_mfu` (had the padding been
          free).
        """
        now = (step, self._clock.seconds(), self._feed.waited)
        steps, seconds, waited = (a - b for a, b in zip(now, self._mark, strict=True))
        self._mark = now
        if steps == 0 or seconds <= 0:
            return {}
        load = self._workload
        values = {
            "speed/step_ms": 1e3 * seconds / steps,
            "speed/input_wait_ms": 1e3 * waited / steps,
        }
        rate = steps * load.batch_size / seconds / load.devices
        values["speed/samples"] = rate
        if load.peak is not None:
            flops = load.flops(load.images, load.prefix, load.suffix)
            values["speed/mfu"] = rate * flops / load.peak
        if sums:
            examples = sums["examples"].sum()
            mean = (round(sums[name].sum() / examples) for name in ("images", "prefix", "tokens"))
            useful = tuple(mean)
            values["speed/tokens"] = rate * load.tokens(*useful)
            if load.peak is not None:
                values["speed/useful_mfu"] = rate * load.flops(*useful) / load.peak
        return values
