"""Bad items of datasets: they end the run, or give way and are counted, by kind and by name."""

import collections
import threading
from collections.abc import Callable, Iterable

from vla_jax.core.batch import Example
from vla_jax.core.errors import UserError
from vla_jax.data.flaw import Flaw, Kind, of_example, refuse
from vla_jax.data.sealed import DamagedError
from vla_jax.data.source import Source
from vla_jax.runtime import progress


class Skipped:
    """What was skipped so far; several threads may note.

    Args:
      most: items that may be skipped by one process; None: not one.
      known: what was found before the first example is drawn.

    Attributes:
      flaws: what was skipped, by key.

    Raises:
      UserError: more is known than may be skipped.
    """

    def __init__(self, most: int | None, known: Iterable[Flaw] = ()):
        self._most, self._lock = most, threading.Lock()
        self.flaws = {flaw.key: flaw for flaw in known}
        if self.flaws and most is None:
            raise refuse(list(self.flaws.values()))
        if self.flaws:
            self._check_bound(next(reversed(self.flaws.values())))

    def note(self, flaw: Flaw, error: UserError | None = None) -> None:
        """Takes note of a flaw, once.

        Raises:
          UserError: it may not be skipped, or too many were.
        """
        if self._most is None:
            raise refuse([flaw]) from error
        with self._lock:
            if flaw.key in self.flaws:
                return
            self.flaws[flaw.key] = flaw
            count = len(self.flaws)
        progress.note(f"skipped {flaw.place} ({count} so far): {flaw.reason}")
        self._check_bound(flaw)

    def _check_bound(self, last: Flaw) -> None:
        count = len(self.flaws)
        if self._most is not None and count > self._most:
            raise UserError(
                f"{count} damaged examples, the last one {last.place}",
                expected=f"at most {self._most} (config.loader.max_skipped)",
                fix="Run vla-jax doctor on the dataset, or raise config.loader.max_skipped",
            )

    def counts(self) -> dict[str, int]:
        """Returns how many items of each kind were skipped."""
        with self._lock:
            return dict(collections.Counter(flaw.kind for flaw in self.flaws.values()))

    def sound(
        self,
        source: Source,
        number: int,
        draw: int = 0,
        *,
        use: Callable[[Example], None],
        read: Example | None = None,
    ) -> tuple[int, Example]:
        """Returns an example, or the first one after it that can be read and used.

        Which one that is depends on the data alone: on no thread, host or earlier batch.

        Args:
          source: where it is from.
          number: which.
          draw: as for `Source.example`.
          use: does what is to be done with it, or raises a UserError.
          read: the example, where it has been read.

        Returns:
          Its number, and the example.

        Raises:
          DamagedError: a file of the index is damaged, which is no fault of the example.
          UserError: it may not be skipped, too many were, or there is none.
        """
        for _ in range(len(source)):
            kind: Kind = "record"
            try:
                example = read or source.example(number, draw)
                kind = "picture"
                use(example)
            except DamagedError:
                raise
            except UserError as error:
                self.note(of_example(error, source.name, source.place(number), kind), error)
                number, read = (number + 1) % len(source), None
            else:
                return number, example
        raise UserError(f"dataset {source.name}: no example of it can be read")
