"""Question sets by configuration: the formats and how a mixture's entry is opened."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Literal

from vla_jax.core.errors import UserError, nearest
from vla_jax.core.fields import Checked, PathText, Weight
from vla_jax.data import splits
from vla_jax.data.blocks import BlocksConfig
from vla_jax.data.episode_walk import OnCorrupt
from vla_jax.data.web import index
from vla_jax.data.web.formats import Format
from vla_jax.data.web.jsonl import JsonLines
from vla_jax.data.web.layouts import LAYOUTS
from vla_jax.data.web.questions import Questions
from vla_jax.data.web.tfds import Tfds
from vla_jax.data.web.webdataset import WebDataset

FORMATS: Mapping[str, Format] = {
    "tfds": Tfds(),
    "webdataset": WebDataset(),
    "jsonl": JsonLines(),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebConfig(Checked):
    """One question set of a mixture.

    Attributes:
      weight: its weight among the question sets, above 0.
      dir: its directory, for TFDS that of the version; None looks in the data directory.
      format: `tfds` (TFRecords with their metadata), `webdataset` (tar) or `jsonl` (lines that
        name image files).
      layout: which fields are question and answers (`data/web/layouts.py`).
      split: split and slice by example, e.g. `train[:95%]`.
      held_out: split to measure on, e.g. `validation` or `train[95%:]`; None for none.
    """

    weight: Weight = 1.0
    dir: PathText | None = None
    format: Literal["tfds", "webdataset", "jsonl"] = "tfds"
    layout: str = "qa"
    split: str = "train"
    held_out: str | None = "validation"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("format", self.format, FORMATS)
        _check("layout", self.layout, LAYOUTS)
        for split in (self.split, self.held_out):
            if split is not None:
                splits.parse(split)


def open_web(
    name: str,
    config: WebConfig,
    *,
    directory: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None = None,
    on_progress: index.OnProgress | None = None,
    blocks: BlocksConfig | None = None,
    on_corrupt: OnCorrupt = "error",
) -> Questions:
    """Opens a question set; indexes it first where that has not been done.

    Args:
      name: its name in the mixture.
      config: format, layout and split.
      directory: where it is.
      cache_dir: where to keep the index; None keeps it beside the data.
      on_progress: is told (description, bytes done, bytes in all) while indexing.
      blocks: reads in block mode, for object storage; None reads example by example.
      on_corrupt: whether what is damaged or missing is an error, or left out.

    Raises:
      UserError: there is no such split, something in it is damaged or missing, or the budget of
        the blocks is too small.
    """
    form, layout, part = FORMATS[config.format], LAYOUTS[config.layout], splits.parse(config.split)
    examples = index.ensure(
        name,
        directory,
        part.split,
        form,
        layout,
        cache_dir=cache_dir,
        on_progress=on_progress,
        on_corrupt=on_corrupt,
    )
    chosen = part.episodes(len(examples), dataset=name)
    return Questions(name, examples, form, layout, chosen, blocks=blocks)


def _check(field: str, value: str, table: Mapping[str, object]) -> None:
    if value not in table:
        raise UserError(
            f"web dataset: {field} {value!r}",
            expected=f"one of {', '.join(table)}",
            fix=nearest(value, list(table)),
        )
