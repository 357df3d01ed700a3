"""What of a run's data cannot be used: looked for before training, and bounded after."""

from collections.abc import Callable, Iterable

from vla_jax.core.batch import Example
from vla_jax.core.errors import TextError
from vla_jax.data import collate, flaw
from vla_jax.data.flaw import Flaw
from vla_jax.data.skipped import Skipped
from vla_jax.data.source import Source
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.sources import Data
from vla_jax.tokens.encoder import Encoder

MOST_TEXTS = 100_000  # of each web set, that are looked through for action tokens and length


def known(encoder: Encoder, examples: Iterable[Source]) -> list[Flaw]:
    """Lays out the distinct texts of sources, and returns what may not be trained on.

    Of very large question sets the texts of `MOST_TEXTS` examples are looked at; the others are
    looked at when they are drawn.

    Returns:
      The flaws, texts that are too long first, the longest before the others.
    """
    found: list[Flaw] = []
    for source in examples:
        found += source.flaws
        for number, text, role in source.distinct(MOST_TEXTS):
            try:
                encoder.lay_out(text, role)
            except TextError as error:
                found.append(flaw.of_example(error, source.name, source.place(number), "text"))
    return sorted(found, key=lambda bad: -bad.needed)


def check(config: RunConfig, encoder: Encoder, data: Data) -> None:
    """Checks the texts of all datasets, before anything of a run is written.

    Raises:
      UserError: some cannot be written and may not be skipped, or are too many to be skipped; or
        more of the data was left out than may be.
    """
    sources = (*data.sources, *data.held_out.values())
    Skipped(config.loader.most_skipped, known(encoder, sources))


def sound(config: RunConfig, encoder: Encoder) -> Callable[[Source, int], tuple[int, Example]]:
    """Returns what reads examples outside the loader, for measurements.

    Given a source and a number, it returns the example, or the first one after it that can be used,
    and its number; what is skipped is bounded as in training.
    """
    skipped = Skipped(config.loader.most_skipped)

    def use(example: Example) -> None:
        collate.check(example, encoder, config.loader.max_pixels)

    return lambda source, number: skipped.sound(source, number, use=use)
