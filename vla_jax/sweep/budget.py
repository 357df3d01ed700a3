"""How long runs take, by those that are done; and which of them still fit."""

import dataclasses
from collections.abc import Mapping

from vla_jax.sweep.plan import Run
from vla_jax.sweep.record import Record, State


@dataclasses.dataclass(frozen=True)
class Durations:
    """Expected durations.

    Attributes:
      records: of every run, by name.
    """

    records: Mapping[str, Record]

    def expected(self, run: Run) -> float | None:
        """Returns the seconds that the run takes from its start, those of other seeds first.

        Returns:
          The mean of the finished runs of its arm, else of all that are measured as it is; None
          where none is finished.
        """
        done = [record for record in self.records.values() if record.state is State.DONE]
        own = [record.seconds for record in done if record.run.arm == run.arm]
        like = [record.seconds for record in done if record.run.measured == run.measured]
        seconds = own or like
        return sum(seconds) / len(seconds) if seconds else None

    def left(self, run: Run) -> float | None:
        """Returns the seconds that the run still needs; None where nothing is known."""
        record = self.records[run.name]
        if record.state is State.DONE:
            return 0.0
        expected = self.expected(run)
        return None if expected is None else max(0.0, expected - record.seconds)


@dataclasses.dataclass(frozen=True)
class Budget:
    """Wall-clock time of one command.

    Attributes:
      seconds: what it may take; None for as long as it needs.
    """

    seconds: float | None

    def allows(self, elapsed: float, left: float | None) -> bool:
        """Tells whether a run may start: it is expected to end in time, or nothing is known."""
        return self.seconds is None or elapsed + (left or 0.0) < self.seconds
