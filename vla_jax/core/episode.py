"""Which episode of an environment is meant: what its reset takes, and nothing else."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episode:
    """One fixed episode.

    Attributes:
      seed: of the reset.
      options: of the reset, e.g. split, task, number of blocks.
    """

    seed: int
    options: Mapping[str, Any]
