"""The formats that can be ingested: an explicit table, and the loop over one of them."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from vla_jax.core.errors import UserError, listed
from vla_jax.data.ingest import rlds
from vla_jax.data.ingest.episode import Checks, Episode, Reader
from vla_jax.data.ingest.lerobot import LeRobot
from vla_jax.data.ingest.libero import Libero
from vla_jax.data.ingest.options import Options
from vla_jax.data.ingest.robomimic import Robomimic

FORMATS: dict[str, Callable[[Path, Options], Reader]] = {
    "libero_hdf5": Libero,
    "robomimic_hdf5": Robomimic,
    "lerobot": LeRobot,
}
MAX_SKIPPED = 100  # as many as loader.max_skipped allows


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
    on_corrupt: Literal["error", "skip"] = "error",
    max_skipped: int = MAX_SKIPPED,
    on_progress: Callable[[Episode | None], None] = lambda episode: None,
) -> Ingested:
    """Writes the episodes of a reader as an RLDS version directory; on failure there is none.

    Args:
      reader: one of `FORMATS`.
      directory: must not exist.
      name: the dataset's name.
      description: one paragraph, stored in the metadata, with what was left out.
      on_corrupt: whether an episode (or a file of them) that cannot be read or does not pass the
        checks ends it, or is left out and listed.
      max_skipped: how many may be left out.
      on_progress: called after each episode, with None for one that was left out.

    Raises:
      UserError: the directory exists or cannot be written; an episode does not pass, or with
        `skip` more than `max_skipped`.
    """
    checks, skipped, texts = Checks(), [], set()

    def episodes() -> Iterator[Episode]:
        for i in range(len(reader)):
            try:
                episode = checks(reader.episode(i))
            except UserError as error:
                if on_corrupt == "error":
                    raise UserError(
                        str(error).removesuffix("."), fix="To leave it out: --on_corrupt=skip"
                    ) from error
                skipped.append(str(error))
                _check_bound(skipped, max_skipped, len(reader))
                on_progress(None)
                continue
            texts.update(episode.instructions)
            yield episode
            on_progress(episode)

    written = rlds.write(
        episodes(),
        directory,
        name=name,
        description=lambda: f"{description}{_left_out(skipped)}",
        docs=reader.docs,
    )
    return Ingested(**vars(written), instructions=len(texts), skipped=skipped)


def _left_out(skipped: Sequence[str]) -> str:
    return f" Left out, {len(skipped)}: {listed(skipped)}" if skipped else ""


def _check_bound(skipped: Sequence[str], most: int, episodes: int) -> None:
    if len(skipped) > most:
        raise UserError(
            f"{len(skipped)} of {episodes} episodes are damaged; the last: "
            f"{skipped[-1].removesuffix('.')}",
            expected=f"at most {most} (--max_skipped)",
            found=len(skipped),
        )
    if len(skipped) == episodes:
        raise UserError(
            f"every episode is damaged; the last: {skipped[-1].removesuffix('.')}",
            expected="at least one that is sound",
            found="none",
        )
