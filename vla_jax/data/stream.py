"""Which example comes when: batch k of the mixture is a pure function of (k, seed).

Nothing is remembered between batches, so that starting at batch k costs what starting at 0 costs.
Three exact sequences are nested: the number of robot examples before batch k (the running sum of
the share schedule), the source of the n-th robot or web example (an interleaving in which any
stretch holds its share of each source), and the number of a source's n-th example (Grain's index
shuffle, for small sets the order of their hashes; new in every epoch).
"""

import dataclasses
import fractions
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from grain.experimental import index_shuffle

from vla_jax.core.arrays import Float, Int

# Grain's cipher has 16 bits or more, and is asked again until its answer is below the size of the
# set: for one of 600 examples that costs more than reading an example.
_SMALL = 2**15
_ROUNDS = 4  # of the cipher under Grain's shuffle, as in grain.MapDataset.shuffle


def mix_bits(*values: int | np.ndarray) -> np.ndarray:
    """Hashes integers, element by element, to uint64 whose every bit depends on every input bit.

    Args:
      *values: integers below 2**64, or arrays of them that broadcast.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014), applied in sequence.
    """
    state = np.uint64(0)
    with np.errstate(over="ignore"):
        for value in values:
            state = state + np.asarray(value).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state)


def uniform(
    draws: Int[np.ndarray, " b"], count: int, salt: int = 0
) -> Float[np.ndarray, "b count"]:
    """Returns numbers in [0, 1) that depend on the draw of their row alone.

    Args:
      draws: uint64 [b], one draw per example.
      count: numbers per example.
      salt: another salt gives other numbers.
    """
    bits = mix_bits(draws[:, None], np.arange(count)[None] + (salt << 32))
    return (bits >> np.uint64(11)) * 2.0**-53


def shuffled(size: int, start: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns places `start` to `start + count` of an endless order, shuffled anew every epoch.

    Args:
      size: number of examples; every epoch (`size` places) holds each once.
      start: the first place.
      count: number of places.
      seed: of the order, any non-negative integer.

    Returns:
      int64 [count] example numbers, and int64 [count] the epoch of each.
    """
    epochs, places = np.divmod(np.arange(start, start + count, dtype=np.int64), size)
    numbers = [
        _order(size, seed, epoch)[place]
        if size <= _SMALL
        else index_shuffle(place, max_index=size - 1, seed=_epoch_seed(seed, epoch), rounds=_ROUNDS)
        for epoch, place in zip(epochs.tolist(), places.tolist(), strict=True)
    ]
    return np.array(numbers, np.int64), epochs


@functools.lru_cache(maxsize=1000)
def _epoch_seed(seed: int, epoch: int) -> int:
    # Hashed, so that neighbouring seeds do not see the same orders an epoch apart.
    return int(mix_bits(seed, epoch)) % 2**32


@functools.lru_cache(maxsize=256)  # 32 MiB at most
def _order(size: int, seed: int, epoch: int) -> Int[np.ndarray, " size"]:
    """Returns the order of a small set in one epoch, by the hash of each number."""
    return np.argsort(mix_bits(seed, epoch, np.arange(size))).astype(np.int32)


class Schedule:
    """The share of robot examples by step: linear between points, constant outside them.

    Args:
      points: (step, share) by rising step, shares 0..1; one point is a constant share.
    """

    def __init__(self, points: Sequence[tuple[int, float]]):
        # As the decimal that was written, so that running sums are exact.
        self._points = [(step, fractions.Fraction(str(share))) for step, share in points]

    def share(self, step: int) -> fractions.Fraction:
        """Returns the share of the batch after `step` updates."""
        points = self._points
        if step <= points[0][0]:
            return points[0][1]
        for (left, a), (right, b) in itertools.pairwise(points):
            if step <= right:
                return a + (b - a) * fractions.Fraction(step - left, right - left)
        return points[-1][1]

    def total(self, steps: int) -> fractions.Fraction:
        """Returns the sum of the shares of the first `steps` batches, exactly."""
        edges = [0, *(step for step, _ in self._points), steps]
        edges = sorted({min(max(edge, 0), steps) for edge in edges})
        total = fractions.Fraction(0)
        for left, right in itertools.pairwise(edges):
            # An arithmetic series: the ends' mean times the number of terms.
            total += (self.share(left) + self.share(right - 1)) / 2 * (right - left)
        return total

    def examples(self, batch: int, size: int) -> int:
        """Returns the number of robot examples before batch number `batch`, of `size` each."""
        return int(self.total(batch) * size + fractions.Fraction(1, 2))


class Interleave:
    """Sources interleaved so that every stretch of the sequence holds its share of each.

    The j-th example of a source with share p stands at time (j + 1/2) / p, and the sequence is
    the order of times: Webster's apportionment. At time T a source has had T p examples to within
    one half. Grain's `mix` does the same job, but it rounds shares to 1% of the smallest one
    and walks all sources for every example.

    Args:
      weights: of each source, positive; their sum does not matter.
    """

    def __init__(self, weights: Sequence[float]):
        total = float(sum(weights))
        self._shares = np.array([weight / total for weight in weights], np.float64)

    def take(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns source and place within it, int64 [count] each, from place `start` on."""
        sources, places, skip = self._stretch(start, count)
        chosen = slice(skip, skip + count)
        return sources[chosen], places[chosen]

    def drawn(self, count: int) -> Int[np.ndarray, " sources"]:
        """Returns how many of the first `count` examples each source gives."""
        lower = self._before(count - len(self._shares))
        sources, _, skip = self._stretch(count, 0)
        return lower + np.bincount(sources[:skip], minlength=len(self._shares))

    def _stretch(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Returns sources and places in order, from a little before `start`, and how many before.

        At time T between T - n/2 and T + n/2 examples of n sources have been drawn.
        """
        margin = len(self._shares)
        lower, upper = self._before(start - margin), self._before(start + count + margin)
        lengths = upper - lower
        sources = np.repeat(np.arange(margin), lengths)
        firsts = np.repeat(lower - (np.cumsum(lengths) - lengths), lengths)
        places = np.arange(len(sources)) + firsts
        order = np.argsort(self._time(sources, places), kind="stable")
        return sources[order], places[order], start - int(lower.sum())

    def _before(self, time: int) -> Int[np.ndarray, " sources"]:
        """Counts each source's examples up to and including `time`."""
        every = np.arange(len(self._shares))
        counts = np.floor(max(time, 0) * self._shares + 0.5).astype(np.int64)
        # Rounding may miss by one; the order of times, as computed, decides.
        counts -= (counts > 0) & (self._time(every, counts - 1) > time)
        return counts + (self._time(every, counts) <= time)

    def _time(self, sources: np.ndarray, places: np.ndarray) -> np.ndarray:
        return (places + 0.5) / self._shares[sources]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """Which examples make a stretch of one batch, in order.

    Attributes:
      source: int64 [b], number of the source.
      place: int64 [b], place in the source's endless order; those of one source are consecutive.
    """

    source: Int[np.ndarray, " b"]
    place: Int[np.ndarray, " b"]


class Plan:
    """The whole run's order. Sources are numbered robots first, then web.

    Args:
      robots: weight of each robot source, positive.
      web: weight of each web source, positive.
      schedule: share of robot examples by step.
      batch_size: examples of a global batch.
    """

    def __init__(
        self,
        *,
        robots: Sequence[float],
        web: Sequence[float],
        schedule: Schedule,
        batch_size: int,
    ):
        self.batch_size, self.schedule = batch_size, schedule
        self._first_web = len(robots)
        self._robots = Interleave(robots) if robots else None
        self._web = Interleave(web) if web else None

    def rows(self, batch: int, process: tuple[int, int] = (0, 1)) -> Selection:
        """Returns the rows of one host process in global batch number `batch`.

        Hosts take consecutive parts of one global order, which does not depend on their number.

        Args:
          batch: 0 is the first.
          process: index and count of the host processes; the count divides the batch size.
        """
        size, (index, count) = self.batch_size, process
        begin, end = index * size // count, (index + 1) * size // count
        before, after = (self.schedule.examples(k, size) for k in (batch, batch + 1))
        # Robot rows are spread evenly, so that each host's part has its share too.
        edges = np.arange(begin, end + 1) * (after - before) // size
        is_robot = np.diff(edges) > 0
        rows = Selection(
            source=np.empty(end - begin, np.int64), place=np.empty(end - begin, np.int64)
        )
        first_robot = before + int(edges[0])
        streams = (
            (self._robots, is_robot, first_robot, 0),
            (self._web, ~is_robot, batch * size + begin - first_robot, self._first_web),
        )
        for stream, where, start, number in streams:
            if stream is not None and where.any():
                source, place = stream.take(start, int(where.sum()))
                rows.source[where], rows.place[where] = source + number, place
        return rows

    def drawn(self, batches: int) -> Int[np.ndarray, " sources"]:
        """Returns how many examples of each source the first `batches` global batches hold."""
        robots = self.schedule.examples(batches, self.batch_size)
        pairs = ((self._robots, robots), (self._web, batches * self.batch_size - robots))
        parts = [stream.drawn(count) for stream, count in pairs if stream is not None]
        return np.concatenate(parts)
