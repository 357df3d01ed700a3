"""The episodes of a reader that pass the checks; others end it, or are left out and listed."""

from collections.abc import Callable, Iterator
from typing import Literal

from vla_jax.core.errors import UserError
from vla_jax.data.ingest.episode import Checks, Episode, Reader, Schema

MAX_SKIPPED = 100  # as many as loader.max_skipped allows
OnCorrupt = Literal["error", "skip"]


class Sound:
    """Goes through a reader once.

    Args:
      reader: one of `formats.FORMATS`.
      on_corrupt: whether an episode (or a file of them) that cannot be read or does not pass the
        checks ends it, or is left out and listed.
      max_skipped: how many may be left out.
      on_skip: called after each that is left out.

    Attributes:
      skipped: why each that was left out so far was.
      read: episodes read so far, those left out among them.
    """

    def __init__(
        self,
        reader: Reader,
        on_corrupt: OnCorrupt = "error",
        max_skipped: int = MAX_SKIPPED,
        on_skip: Callable[[], None] = lambda: None,
    ):
        self.skipped: list[str] = []
        self.read = 0
        self._reader, self._on_corrupt, self._most = reader, on_corrupt, max_skipped
        self._checks, self._on_skip = Checks(), on_skip

    @property
    def schema(self) -> Schema:
        """What each feature is, as the first sound episode has it; empty before it."""
        return self._checks.schema or {}

    def __iter__(self) -> Iterator[Episode]:
        """Yields them.

        Raises:
          UserError: an episode does not pass, or with `skip` too many, or all.
        """
        for i in range(len(self._reader)):
            self.read += 1
            try:
                episode = self._checks(self._reader.episode(i))
            except UserError as error:
                if self._on_corrupt == "error":
                    raise UserError(
                        str(error).removesuffix("."), fix="To leave it out: --on_corrupt=skip"
                    ) from error
                self.skipped.append(str(error))
                self._check_bound()
                self._on_skip()
                continue
            yield episode

    def _check_bound(self) -> None:
        count, episodes = len(self.skipped), len(self._reader)
        last = self.skipped[-1].removesuffix(".")
        if count > self._most:
            raise UserError(
                f"{count} of {episodes} episodes are damaged; the last: {last}",
                expected=f"at most {self._most} (--max_skipped)",
                found=count,
            )
        if count == episodes:
            raise UserError(
                f"every episode is damaged; the last: {last}",
                expected="at least one that is sound",
                found="none",
            )
