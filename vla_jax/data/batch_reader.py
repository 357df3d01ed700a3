"""Batch number -> Batch: chooses, reads, decodes and encodes its examples, in threads."""

import concurrent.futures

import grain
import numpy as np

from vla_jax.core.batch import Batch, Example
from vla_jax.core.errors import UserError
from vla_jax.data import stream
from vla_jax.data.collate import Collator, Rows
from vla_jax.data.skipped import Skipped
from vla_jax.data.source import Source


class BatchReader(grain.transforms.Map):
    """A function of the number of a batch.

    Args:
      plan: which examples.
      collator: lays out the rows.
      skipped: what becomes of examples that cannot be read or decoded.
      threads: decoding threads.
      seed: of shuffles, augmentation and wordings.
      process: index and count of the host processes; each gets its part of every global batch.
    """

    def __init__(
        self,
        plan: stream.Plan,
        collator: Collator,
        skipped: Skipped,
        *,
        threads: int,
        seed: int,
        process: tuple[int, int],
    ):
        self._plan, self._collator, self._skipped = plan, collator, skipped
        self._orders = stream.mix_bits(seed, np.arange(len(collator.sources)))
        self._process = process
        self._threads, self._pool = threads, concurrent.futures.ThreadPoolExecutor(threads)

    def map(self, element: int) -> Batch:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Reads, decodes and encodes batch number `element`."""
        source, number, draws = self._choose(int(element))
        rows = self._collator.start(source, draws)
        # In the order on disk, cut into a few stretches per thread so that none waits for long.
        order = np.lexsort((number, source))
        parts = np.array_split(order, min(len(order), 4 * self._threads))

        def fill(part: np.ndarray) -> None:
            drawn = [(row, int(source[row]), int(number[row]), int(draws[row])) for row in part]
            # Step by step, not example by example: decoding leaves no cache warm for the rest.
            read = [self._try(*which) for _, *which in drawn]
            examples = [
                self._sound(rows, *which, example)
                for which, example in zip(drawn, read, strict=True)
            ]
            rows.write(part, examples)

        list(self._pool.map(fill, parts))
        return rows.finish()

    def places(self, batch: int) -> list[str]:
        """Says where the examples of batch number `batch`, made before, lie."""
        drawn = zip(*self._choose(batch), strict=True)
        return [self._place(*map(int, which)) for which in drawn]

    def _place(self, source: int, number: int, draw: int) -> str:
        opened = self._collator.sources[source]
        while self._gave_way(opened, number, draw):
            number = (number + 1) % len(opened)
        return opened.place(number)

    def _gave_way(self, source: Source, number: int, draw: int) -> bool:
        """Whether an example of a batch that was made was passed over in it."""
        if not self._skipped.flaws:
            return False
        if source.place(number) in self._skipped.flaws:
            return True
        try:
            self._collator.encoder.check(source.example(number, draw))
        except UserError:
            return True
        return False

    def _choose(self, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns source, example number and draw of every row."""
        plan = self._plan.rows(batch, self._process)
        number, epoch = np.empty_like(plan.source), np.empty_like(plan.source)
        for source in set(plan.source.tolist()):
            where = np.flatnonzero(plan.source == source)
            number[where], epoch[where] = self._collator.sources[source].shuffle(
                int(plan.place[where[0]]), len(where), int(self._orders[source])
            )
        return plan.source, number, stream.mix_bits(self._orders[plan.source], epoch, number)

    def _try(self, source: int, number: int, draw: int) -> Example | None:
        """Reads an example; None where that fails, which is told when it is asked for again."""
        try:
            return self._collator.sources[source].example(number, draw)
        except UserError:
            return None

    def _sound(
        self, rows: Rows, row: int, source: int, number: int, draw: int, read: Example | None
    ) -> Example:
        """Decodes an example, once `read`, or the first sound one after it, into its row."""

        def use(example: Example) -> None:
            self._collator.encoder.check(example)
            rows.decode(row, example)

        opened = self._collator.sources[source]
        return self._skipped.sound(opened, number, draw, use=use, read=read)[1]
