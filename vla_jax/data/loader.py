"""The mixed stream -> Batches on the host, decoded ahead by threads, resumable by one integer."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import grain
import numpy as np

from vla_jax.core.batch import Batch, Example
from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, Factor, Natural, Range, Size
from vla_jax.data import images, mixture
from vla_jax.data.augment import AugmentConfig
from vla_jax.data.batch_reader import BatchReader
from vla_jax.data.blocks import BlocksConfig
from vla_jax.data.collate import Collator, Layout
from vla_jax.data.flaw import Flaw
from vla_jax.data.skipped import Skipped
from vla_jax.data.source import Source
from vla_jax.tokens.encoder import Encoder

_ENDLESS = 2**60  # batches
_HELD_BY_CONSUMER = 2  # batches: one in use, one on its way to the device
_FIXED = 24 * 2**20  # bytes: stacks of threads, freed memory that the allocator keeps
_LOOKED_AT = 16  # examples of a source, until one tells the size of its images
_MIB = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderConfig(Checked):
    """How batches are made.

    Attributes:
      batch_size: examples per global batch.
      held_out: share of robot episodes kept out of training for held-out metrics.
      threads: decoding threads.
      prefetch: batches decoded ahead.
      views: camera views of an example, in order; a dataset without one of them has it masked.
      history: steps whose images an example has, this one and those before.
      chunk: actions of an example, this step's and those after.
      continuous: whether batches hold actions and state as numbers, beside the tokens.
      resize: `linear`, or `lanczos` as the checkpoints of Octo and OpenVLA need it.
      augment: random crop and colour.
      ram_budget: bytes that the loader may hold; more is refused before it starts. None: any.
      blocks: how datasets on object storage are read.
      on_corrupt: what a bad item does, such as a damaged file, record or picture, an episode
        without steps, a text that is blank or too long, an impossible number: stop the run
        (`error`), or give way to the next example of its dataset (`skip`), noted by name.
      max_skipped: items that may be skipped by one process; a text counts once, however many
        examples have it.
      max_pixels: of a stored image; one that has more by its header is a bad item, and is not
        decoded.

    Raises:
      UserError: a value out of its range.
    """

    batch_size: Size = 256
    held_out: Factor = 0.02
    threads: Annotated[int, Range(1, 1024)] = 8
    prefetch: Annotated[int, Range(1, 1024)] = 2
    views: tuple[str, ...] = ("primary",)
    history: Annotated[int, Range(1, 1024)] = 1
    chunk: Annotated[int, Range(1, 1024)] = 1
    continuous: bool = False
    resize: images.Resize = "linear"
    augment: AugmentConfig = AugmentConfig()
    ram_budget: Annotated[int, Range(1, 2**60)] | None = None
    blocks: BlocksConfig = BlocksConfig()
    on_corrupt: Literal["error", "skip"] = "error"
    max_skipped: Natural = 100
    max_pixels: Annotated[int, Range(1, 2**30)] = images.MOST_PIXELS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.views or len(set(self.views)) < len(self.views):
            raise UserError(
                "config.loader.views", expected="different names, at least one", found=self.views
            )

    @property
    def most_skipped(self) -> int | None:
        """How many items may be skipped; None: not one."""
        return self.max_skipped if self.on_corrupt == "skip" else None

    def layout(self, image_size: int, *, state: int = 0, augmented: bool = True) -> Layout:
        """Returns what a row of a batch holds.

        Args:
          image_size: side of the images, pixels.
          state: size of the state that the model takes, 0 for none.
          augmented: False leaves the augmentation out, for measurements.
        """
        return Layout(
            views=self.views,
            history=self.history,
            chunk=self.chunk,
            continuous=self.continuous,
            image_size=image_size,
            resize=self.resize,
            augment=self.augment if augmented else AugmentConfig(),
            state=state,
            max_pixels=self.max_pixels,
        )


def collate(
    examples: Sequence[Example],
    numbers: Sequence[int],
    sources: Sequence[Source],
    encoder: Encoder,
    config: LoaderConfig,
    *,
    image_size: int,
    state: int = 0,
) -> Batch:
    """Returns a batch of given examples as training sees it, but for the augmentation.

    Args:
      examples: b examples.
      numbers: the source of each, as `Batch.source` numbers them.
      sources: the mixture sources.
      encoder: writes the tokens.
      config: how batches are made.
      image_size: side of the images, pixels.
      state: size of the state that the model takes, 0 for none.

    Raises:
      UserError: an image is damaged, or a text or action does not fit its slots.
    """
    collator = Collator(sources, encoder, config.layout(image_size, state=state, augmented=False))
    rows = collator.start(np.asarray(numbers, np.int64), np.zeros(len(examples), np.uint64))
    for row, example in enumerate(examples):
        rows.decode(row, example, f" of {example.name}")
    rows.write(range(len(examples)), examples)
    return rows.finish()


class Loader:
    """An endless iterator of Batches whose k-th batch is a pure function of (config, seed, k).

    Args:
      sources: the opened datasets of the mixture, robots first.
      mixture_config: their proportions.
      encoder: writes the tokens.
      config: how batches are made.
      image_size: side of the images, pixels.
      state: size of the state that the model takes, 0 for none.
      seed: of shuffles, augmentation and wordings.
      start: number of batches to skip, which costs nothing.
      process: index and count of the host processes; each gets its part of every global batch.
      known: flaws that the datasets are known to have, which are skipped.

    Attributes:
      skipped: what was skipped so far.

    Raises:
      UserError: hosts cannot share the batch, or the memory budget is too small.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        mixture_config: mixture.MixtureConfig,
        encoder: Encoder,
        config: LoaderConfig,
        *,
        image_size: int,
        state: int = 0,
        seed: int,
        start: int = 0,
        process: tuple[int, int] = (0, 1),
        known: Sequence[Flaw] = (),
    ):
        if config.batch_size % process[1]:
            raise UserError(
                "config.loader.batch_size",
                expected=f"a multiple of the {process[1]} processes",
                found=config.batch_size,
            )
        self._config, self._rows = config, config.batch_size // process[1]
        self._sources = tuple(sources)
        self._collator = Collator(sources, encoder, config.layout(image_size, state=state))
        self._check_budget()
        self.skipped = Skipped(config.most_skipped, known)
        self._reader = BatchReader(
            mixture.make_plan(mixture_config, sources, config.batch_size),
            self._collator,
            self.skipped,
            threads=config.threads,
            seed=seed,
            process=process,
        )
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=config.prefetch)
        batches = grain.MapDataset.range(_ENDLESS).map(self._reader)
        self._iterator = iter(batches.to_iter_dataset(options))
        self._iterator.set_state({"next_index": start})

    def __iter__(self) -> Iterator[Batch]:
        """Returns itself."""
        return self

    def __next__(self) -> Batch:
        """Returns the next batch of this process.

        Raises:
          UserError: an example is damaged, or a text or action does not fit its slots.
        """
        return next(self._iterator)

    def again(self, batch: int) -> tuple[Batch, list[str]]:
        """Makes batch number `batch` (0 is the first) of this process again, for an examination.

        Returns:
          The batch, and where each of its examples lies: dataset, shard, episode and step.
        """
        return self._reader.map(batch), self._reader.places(batch)

    def state(self, step: int) -> dict[str, Any]:
        """Returns the position after `step` batches as JSON values, with what it indexes into."""
        fingerprint = {source.name: source.fingerprint for source in self._sources}
        return {"next_batch": step, "fingerprint": fingerprint}

    @staticmethod
    def check(state: Mapping[str, Any], sources: Sequence[Source]) -> int:
        """Returns the next batch of a saved position, if these are the datasets it indexes into.

        Raises:
          UserError: a dataset changed, or there are others.
        """
        before = state["fingerprint"]
        now = {source.name: source.fingerprint for source in sources}
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise UserError(
                    f"dataset {name}: not what it was when this run began",
                    expected=f"fingerprint {before.get(name, 'absent')}",
                    found=now.get(name, "absent"),
                    fix="Restore the dataset, or start anew in another --workdir",
                )
        return state["next_batch"]

    def predicted_ram(self) -> int:
        """Returns the bytes this loader will hold at most, about: batches, images, blocks.

        What the index maps is not counted: it is the system's to keep or to drop.
        """
        batches = self._config.prefetch + _HELD_BY_CONSUMER
        most = self._config.max_pixels
        largest = max((_pixels(source, most) for source in self._sources), default=0)
        # In full, cropped and resized, at worst.
        decoding = self._config.threads * 3 * largest
        blocks = sum(source.ram for source in self._sources)
        return _FIXED + batches * self._collator.bytes(self._rows) + decoding + blocks

    def _check_budget(self) -> None:
        budget = self._config.ram_budget
        if budget is None or self.predicted_ram() <= budget:
            return
        raise UserError(
            "config.loader.ram_budget",
            expected=f"at least {self.predicted_ram() / _MIB:.0f} MiB for these settings",
            found=f"{budget / _MIB:.0f} MiB",
            fix="Lower config.loader.prefetch, .threads, .batch_size or .blocks.budget",
        )


def _pixels(source: Source, max_pixels: int) -> int:
    """Returns the bytes of the largest decoded image of the first example that is not damaged."""
    for i in range(min(len(source), _LOOKED_AT)):
        try:
            example = source.example(i)
            encoded = [data for window in example.images.values() for data in window if data]
            sizes = [images.size(data, example.name, most_pixels=max_pixels) for data in encoded]
        except UserError:  # told with its place when it is drawn, or skipped
            continue
        return max((3 * height * width for height, width in sizes), default=0)
    return 0
