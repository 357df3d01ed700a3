"""Pictures with questions and answers as a mixture source."""

from typing import Literal

import numpy as np

from vla_jax.actions.spec import ActionSpec
from vla_jax.core.batch import Example
from vla_jax.core.errors import UserError
from vla_jax.data import stream
from vla_jax.data.web.formats import Format
from vla_jax.data.web.index import ExampleIndex
from vla_jax.data.web.layouts import Layout, Texts

_VIEW = "primary"


class Questions:
    """The questions of one split, or of a part of it, by number. A `Source`.

    Args:
      name: unique in the mixture.
      index: where they lie.
      form: how they are read.
      layout: which field is what.
      part: the examples of the index that are meant.
    """

    kind: Literal["robot", "web"] = "web"
    spec: ActionSpec | None = None
    state_size: int = 0
    ram: int = 0

    def __init__(self, name: str, index: ExampleIndex, form: Format, layout: Layout, part: range):
        self.name, self.index, self._part = name, index, part
        self._form, self._layout = form, layout
        self.episodes = len(part)
        self.fingerprint = f"{index.fingerprint}[{part.start}:{part.stop}]"

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._part)

    def example(self, i: int, draw: int = 0) -> Example:
        """Reads example `i`: one ranged read, and one more where the image is a file of its own.

        Args:
          i: 0..len-1.
          draw: picks among the answers; one that was given often comes up often.

        Raises:
          UserError: it cannot be read; names dataset, file and example.
        """
        file, row = self.index.locate(self._part[i])
        where, path = self.place(i), self.index.files.paths[file]
        data = self._read(file, row.start, row.length, where)
        texts = self._parse(data[row.text_start : row.text_end], row.is_plain, where)
        return Example(
            prefix=texts.prefix,
            suffix=texts.suffixes[int(draw) % len(texts.suffixes)],
            images={_VIEW: (self._form.image(data, row, path, where),)},
            dataset=self.name,
            episode=i,
        )

    def place(self, i: int) -> str:
        """Says where example `i` lies: dataset, shard and example."""
        file, _ = self.index.locate(self._part[i])
        return f"dataset {self.name}, shard {self.index.files.paths[file]}, example {i}"

    def answers(self, i: int) -> list[str]:
        """Returns all answers to question `i`, each as often as it was given."""
        return self._texts(i).suffixes

    def question_kind(self, i: int) -> str:
        """Returns what question `i` asks for, e.g. `colour`; empty if the set does not say."""
        return self._texts(i).kind

    def shuffle(self, start: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns places of the endless shuffled order; see Source."""
        return stream.shuffled(len(self), start, count, seed)

    def statistics(self) -> None:
        """Questions have no actions."""

    def state_statistics(self) -> None:
        """Questions have no state."""

    def texts(self) -> list[str]:
        """Returns the distinct questions and answers, sorted; reads all examples."""
        found = set()
        for i in range(len(self)):
            texts = self._texts(i)
            found.add(texts.prefix)
            found.update(texts.suffixes)
        return sorted(found)

    def _texts(self, i: int) -> Texts:
        file, row = self.index.locate(self._part[i])
        where = self.place(i)
        data = self._read(file, row.start + row.text_start, row.text_end - row.text_start, where)
        return self._parse(data, row.is_plain, where)

    def _parse(self, text: bytes, is_plain: bool, where: str) -> Texts:
        fields = self._form.fields(text, is_plain, self._layout.names, where)
        return self._layout.read(fields, where)

    def _read(self, file: int, start: int, length: int, where: str) -> bytes:
        try:
            return self.index.files.read(file, start, start + length)
        except UserError as error:
            raise UserError(f"{where}: {str(error).rstrip('.')}") from error
