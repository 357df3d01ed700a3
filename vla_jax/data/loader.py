"""The mixed stream -> Batches on the host, decoded ahead by threads, resumable by one integer."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from vla_jax.core.batch import Batch, Frame
from vla_jax.core.errors import UserError
from vla_jax.data import mixture
from vla_jax.tokens.encoder import Encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How batches are made.

    Attributes:
      batch_size: examples per global batch.
      held_out: share of robot episodes kept out of training for held-out metrics.
      threads: decoding threads.
      prefetch: batches decoded ahead.
    """

    batch_size: int = 256
    held_out: float = 0.02
    threads: int = 8
    prefetch: int = 8

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.threads < 1 or self.prefetch < 1:
            raise UserError(
                "config.loader",
                expected="batch_size, threads and prefetch >= 1",
                found=f"{self.batch_size}, {self.threads}, {self.prefetch}",
            )
        if not 0 <= self.held_out < 1:
            raise UserError("config.loader.held_out", expected="0 <= x < 1", found=self.held_out)


class Source(Protocol):
    """A mixture source: examples by index."""

    name: str

    def __len__(self) -> int: ...

    def frame(self, i: int) -> Frame:
        """Returns example `i`."""
        ...


def collate(frames: Sequence[Frame], sources: Sequence[int], encoder: Encoder) -> Batch:
    """Encodes frames and stacks them.

    Args:
      frames: b examples with the same views and image size.
      sources: the mixture source of each.
      encoder: writes the tokens.
    """
    rows = [encoder.encode(frame) for frame in frames]
    return Batch(
        images=np.stack([np.stack(list(frame.images.values())) for frame in frames]),
        tokens=np.stack([row[0] for row in rows]),
        prefix_length=np.array([row[1] for row in rows], np.int32),
        loss_mask=np.stack([row[2] for row in rows]),
        source=np.asarray(sources, np.int32),
    )


class Loader:
    """An endless iterator of Batches whose k-th batch is a pure function of (config, seed, k).

    Args:
      sources: the mixture sources.
      shares: the share of each.
      encoder: writes the tokens.
      config: batch size and threads.
      seed: of the shuffles.
      start: number of batches to skip, which costs nothing.
      process: index and count of the host processes; each gets its slice of every global batch.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        shares: tuple[float, ...],
        encoder: Encoder,
        config: LoaderConfig,
        *,
        seed: int,
        start: int = 0,
        process: tuple[int, int] = (0, 1),
    ):
        index, count = process
        if config.batch_size % count:
            raise UserError(
                "config.loader.batch_size",
                expected=f"a multiple of the {count} processes",
                found=config.batch_size,
            )
        sizes = tuple(len(source) for source in sources)
        # Hosts slice after mixing, so that the global batch does not depend on their number.
        indices = mixture.stream(sizes, shares, seed)[index::count]
        batches = indices.batch(config.batch_size // count, drop_remainder=True)
        loaded = batches.map(_Load(sources, encoder))
        options = grain.ReadOptions(
            num_threads=config.threads, prefetch_buffer_size=config.prefetch
        )
        self._iterator = iter(loaded.to_iter_dataset(options))
        self._iterator.set_state({"next_index": start})
        self._sizes = sizes

    def __iter__(self) -> Iterator[Batch]:
        """Returns itself."""
        return self

    def __next__(self) -> Batch:
        """Returns the next batch of this process."""
        return next(self._iterator)

    def state(self, step: int) -> dict[str, Any]:
        """Returns the position after `step` batches as JSON values, with what it indexes into."""
        return {"next_batch": step, "sizes": list(self._sizes)}


class _Load(grain.transforms.Map):
    """(source, index) pairs -> Batch."""

    def __init__(self, sources: Sequence[Source], encoder: Encoder):
        self._sources, self._encoder = sources, encoder

    def map(self, element: np.ndarray) -> Batch:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Reads, decodes and encodes one batch."""
        frames = [self._sources[source].frame(int(i)) for source, i in element]
        return collate(frames, element[:, 0].tolist(), self._encoder)
