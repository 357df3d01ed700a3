"""What an ingest would write, from its first episodes; nothing is written."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from vla_jax.core.errors import UserError
from vla_jax.data.ingest.encoding import ImageFormat
from vla_jax.data.ingest.episode import Episode, Reader, Schema
from vla_jax.data.ingest.sound import MAX_SKIPPED, OnCorrupt, Sound

EPISODES = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preview:
    """The first episodes, checked.

    Attributes:
      episodes: them.
      schema: what each of their features is.
      total: episodes of the whole dataset.
      read: how many of them were read for this.
      skipped: why each of these that was left out was.
    """

    episodes: Sequence[Episode]
    schema: Schema
    total: int
    read: int
    skipped: Sequence[str]

    @property
    def steps(self) -> list[int]:
        """Steps of each episode."""
        return [len(episode) for episode in self.episodes]

    @property
    def instructions(self) -> list[str]:
        """The distinct instructions, in order of appearance."""
        return list(dict.fromkeys(text for each in self.episodes for text in each.instructions))

    @property
    def size(self) -> int:
        """Bytes that the whole dataset will take, if the others are like these."""
        taken = sum(
            sum(len(data) for frames in episode.images.values() for data in frames)
            + sum(values.nbytes for values in episode.arrays.values())
            for episode in self.episodes
        )
        return round(taken / len(self.episodes) * (self.total - len(self.skipped)))

    def range(self, feature: str) -> tuple[str, str]:
        """Returns the lowest and the highest value of each dimension of a numeric feature."""
        values = np.concatenate([episode.arrays[feature] for episode in self.episodes])
        flat = values.reshape(len(values), -1)
        return _spell(flat.min(axis=0)), _spell(flat.max(axis=0))

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Returns feature, format, lowest and highest; images have neither of the last two."""
        return [
            (name, str(form), "", "")
            if isinstance(form, ImageFormat)
            else (name, str(form), *self.range(name))
            for name, form in self.schema.items()
        ]


def preview(
    reader: Reader,
    count: int = EPISODES,
    *,
    on_corrupt: OnCorrupt = "error",
    max_skipped: int = MAX_SKIPPED,
) -> Preview:
    """Reads and checks the first episodes that are sound.

    Args:
      reader: one of `formats.FORMATS`.
      count: how many, or all that there are.
      on_corrupt: as for `Sound`.
      max_skipped: as for `Sound`.

    Raises:
      UserError: one is damaged or unlike the first, with `skip` too many, or there are none.
    """
    sound = Sound(reader, on_corrupt, max_skipped)
    episodes = list(itertools.islice(sound, count))
    if not episodes:
        raise UserError("the dataset: no episodes", expected="at least one", found="none")
    return Preview(
        episodes=episodes,
        schema=sound.schema,
        total=len(reader),
        read=sound.read,
        skipped=sound.skipped,
    )


def _spell(values: np.ndarray) -> str:
    return " ".join(f"{value:.3g}" for value in values.astype(np.float64))
