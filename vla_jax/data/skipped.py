"""Examples that cannot be read or decoded: they end the run, or give way and are counted."""

import threading

from vla_jax.core.errors import UserError
from vla_jax.runtime import progress


class Skipped:
    """What was skipped so far; several threads may note.

    Args:
      most: examples that may be skipped by one process; None: not one.

    Attributes:
      reasons: what was wrong, by the place of the example.
    """

    def __init__(self, most: int | None):
        self._most, self._lock = most, threading.Lock()
        self.reasons: dict[str, str] = {}

    def note(self, place: str, error: UserError) -> None:
        """Takes note of an example.

        Raises:
          UserError: it may not be skipped, or too many were.
        """
        if self._most is None:
            raise UserError(
                f"{place}: {str(error).removesuffix('.')}",
                fix="Mend the file, or train without it: --config.loader.on_corrupt=skip",
            ) from error
        with self._lock:
            if place in self.reasons:
                return
            self.reasons[place] = str(error)
            count = len(self.reasons)
        progress.note(f"skipped {place} ({count} so far): {error}")
        if count > self._most:
            raise UserError(
                f"{count} damaged examples, the last one {place}",
                expected=f"at most {self._most} (config.loader.max_skipped)",
                fix="Run vla-jax doctor on the dataset, or raise config.loader.max_skipped",
            ) from error
