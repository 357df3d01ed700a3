"""What a mixture source is: examples by number, each a pure function of (number, draw)."""

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import numpy as np

from vla_jax.actions.spec import ActionSpec
from vla_jax.actions.statistics import Statistics
from vla_jax.core.batch import Example
from vla_jax.data.flaw import Flaw
from vla_jax.tokens.encoder import Role


class Source(Protocol):
    """Examples by number. Reading is safe from several threads at once."""

    @property
    def name(self) -> str:
        """Unique in the mixture."""
        ...

    @property
    def kind(self) -> Literal["robot", "web"]:
        """Which of the two streams it belongs to."""
        ...

    @property
    def spec(self) -> ActionSpec | None:
        """The action space of a robot; None for web."""
        ...

    @property
    def state_size(self) -> int:
        """Dimensions of the state, 0 without."""
        ...

    @property
    def episodes(self) -> int:
        """Number of episodes the examples come from; as many as examples for web."""
        ...

    @property
    def ram(self) -> int:
        """Bytes that reading may hold in memory, 0 where every read stands alone."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the data or their meaning change; kept in checkpoints."""
        ...

    @property
    def flaws(self) -> Sequence[Flaw]:
        """What it is known to lack, and was left out."""
        ...

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def example(self, i: int, draw: int = 0) -> Example:
        """Reads example `i`.

        Args:
          i: 0..len-1; neighbours in number are neighbours on disk.
          draw: any number; where an example has several wordings or answers it picks one.

        Raises:
          UserError: the record is damaged; names dataset, shard, episode and step.
        """
        ...

    def place(self, i: int) -> str:
        """Says where example `i` lies, for messages: dataset, shard, episode and step."""
        ...

    def shuffle(self, start: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns places `start` to `start + count` of the endless shuffled order.

        Every epoch (len places) holds every example once.

        Returns:
          int64 [count] example numbers, and int64 [count] the epoch of each.
        """
        ...

    def statistics(self) -> Statistics | None:
        """Action statistics of a robot over these examples, robot units; None for web."""
        ...

    def state_statistics(self) -> Statistics | None:
        """State statistics; None without state."""
        ...

    def distinct(self, most: int | None = None) -> Iterator[tuple[int, str, Role]]:
        """Yields the distinct texts of the examples as training writes them.

        Args:
          most: of more examples than these, every n-th is looked at; None looks at all.

        Yields:
          Number of the first example that has it, the text, what it is.
        """
        ...

    def texts(self) -> list[str]:
        """The distinct texts (instructions; questions and answers), sorted."""
        ...
