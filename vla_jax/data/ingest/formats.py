"""The formats that can be ingested: an explicit table, and the loop over one of them."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vla_jax.core import paths
from vla_jax.core.errors import listed
from vla_jax.data.ingest import rlds
from vla_jax.data.ingest.episode import Episode, Reader
from vla_jax.data.ingest.lerobot import LeRobot
from vla_jax.data.ingest.libero import Libero
from vla_jax.data.ingest.options import Options
from vla_jax.data.ingest.robomimic import Robomimic
from vla_jax.data.ingest.sound import MAX_SKIPPED, OnCorrupt, Sound

FORMATS: dict[str, Callable[[Path, Options], Reader]] = {
    "libero_hdf5": Libero,
    "robomimic_hdf5": Robomimic,
    "lerobot": LeRobot,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ingested(rlds.Written):
    """What was written, and what was not.

    Attributes:
      instructions: number of distinct instructions.
      skipped: why each episode that was left out was.
    """

    instructions: int
    skipped: list[str]


def ingest(
    reader: Reader,
    directory: Path,
    *,
    name: str,
    description: str,
    on_corrupt: OnCorrupt = "error",
    max_skipped: int = MAX_SKIPPED,
    on_progress: Callable[[Episode | None], None] = lambda episode: None,
) -> Ingested:
    """Writes the episodes of a reader as an RLDS version directory; on failure there is none.

    Args:
      reader: one of `FORMATS`.
      directory: must not exist.
      name: the dataset's name.
      description: one paragraph, stored in the metadata, with what was left out.
      on_corrupt: as for `Sound`.
      max_skipped: as for `Sound`.
      on_progress: called after each episode, with None for one that was left out.

    Raises:
      UserError: the directory exists or cannot be written; an episode does not pass, or with
        `skip` more than `max_skipped`.
    """
    sound, texts = Sound(reader, on_corrupt, max_skipped, lambda: on_progress(None)), set()

    def episodes() -> Iterator[Episode]:
        for episode in sound:
            texts.update(episode.instructions)
            yield episode
            on_progress(episode)

    directory = Path(paths.expand(directory))
    written = rlds.write(
        episodes(),
        directory,
        name=name,
        description=lambda: f"{description}{_left_out(sound.skipped)}",
        docs=reader.docs,
    )
    return Ingested(**vars(written), instructions=len(texts), skipped=sound.skipped)


def _left_out(skipped: Sequence[str]) -> str:
    return f" Left out, {len(skipped)}: {listed(skipped)}" if skipped else ""
