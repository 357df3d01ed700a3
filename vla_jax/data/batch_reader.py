"""Batch number -> Batch: chooses, reads, decodes and encodes its examples, in threads."""

import concurrent.futures

import grain
import numpy as np

from vla_jax.core.batch import Batch, Example
from vla_jax.core.errors import UserError
from vla_jax.data import stream
from vla_jax.data.collate import Collator, Rows
from vla_jax.data.skipped import Skipped


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
        source, number, _ = self._choose(batch)
        return [self._place(int(s), int(k)) for s, k in zip(source, number, strict=True)]

    def _place(self, source: int, number: int) -> str:
        opened = self._collator.sources[source]
        while (place := opened.place(number)) in self._skipped.reasons:
            number = (number + 1) % len(opened)  # gave way, as in `_sound`
        return place

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
        opened = self._collator.sources[source]
        for _ in range(len(opened)):
            try:
                example = read or opened.example(number, draw)
                rows.decode(row, example)
            except UserError as error:
                self._skipped.note(opened.place(number), error)
                number, read = (number + 1) % len(opened), None
            else:
                return example
        raise UserError(f"dataset {opened.name}: no example of it can be read")
