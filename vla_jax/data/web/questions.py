"""Pictures with questions and answers as a mixture source."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from vla_jax.actions.spec import ActionSpec
from vla_jax.core.batch import Example
from vla_jax.core.errors import UserError
from vla_jax.core.words import is_blank
from vla_jax.data import stream
from vla_jax.data.blocks import BlockReader, BlocksConfig
from vla_jax.data.web.formats import Format
from vla_jax.data.web.index import ExampleIndex
from vla_jax.data.web.layouts import Layout, Texts
from vla_jax.tokens.encoder import Role
from vla_jax.tokens.prompts import PromptsConfig

_VIEW = "primary"


class Questions:
    """The questions of one split, or of a part of it, by number. A `Source`.

    Args:
      name: unique in the mixture.
      index: where they lie.
      form: how they are read.
      layout: which field is what.
      part: the examples of the index that are meant.
      blocks: reads in block mode, for object storage; None reads example by example, as does a
        format whose images are files of their own.

    Attributes:
      ram: bytes that reading may hold.
      flaws: what of the files was left out.
      places: whether `<locNNNN>` in its answers stands for a place.

    Raises:
      UserError: the budget of the blocks is too small.
    """

    kind: Literal["robot", "web"] = "web"
    spec: ActionSpec | None = None
    state_size: int = 0

    def __init__(
        self,
        name: str,
        index: ExampleIndex,
        form: Format,
        layout: Layout,
        part: range,
        *,
        blocks: BlocksConfig | None = None,
    ):
        self.name, self.index, self._part = name, index, part
        self._form, self._layout = form, layout
        self.flaws = index.flaws
        self.episodes, self.places = len(part), layout.places
        self.fingerprint = f"{index.fingerprint}[{part.start}:{part.stop}]"
        if layout.is_prompt:
            self.fingerprint += ", whole prompts"
        self.ram, self._blocks = 0, None
        if blocks is not None and form.has_images:
            self.ram, self._blocks = blocks.budget, _open_blocks(name, index, part, blocks)
            # A place in this order means nothing in another.
            self.fingerprint += f", {self._blocks.signature}"

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._part)

    def example(self, i: int, draw: int = 0) -> Example:
        """Reads example `i`: one ranged read, and one more where the image is a file of its own.

        In block mode that read is its block's.

        Args:
          i: 0..len-1.
          draw: picks among the answers; one that was given often comes up often.

        Raises:
          UserError: it cannot be read; names dataset, file and example.
        """
        file, row = self.index.locate(self._part[i])
        where, path = self.place(i), self.index.files.paths[file]
        data = self._read(i, row.start, row.start + row.length)
        image = self._form.image(data, row, path, where)
        beside = self._form.beside(data, path, where)
        self.index.check(self._part[i], data + beside if beside else data, where)
        texts = self._parse(data[row.text_start : row.text_end], row.is_plain, where)
        return Example(
            prefix=texts.prefix,
            is_prompt=self._layout.is_prompt,
            suffix=texts.suffixes[int(draw) % len(texts.suffixes)],
            places=self._layout.places,
            images={_VIEW: (image,)},
            dataset=self.name,
            episode=i,
        )

    def place(self, i: int) -> str:
        """Says where example `i` lies: dataset, shard and its number in the whole split."""
        number = self._part[i]
        file, _ = self.index.locate(number)
        return f"dataset {self.name}, shard {self.index.files.paths[file]}, example {number}"

    def answers(self, i: int) -> list[str]:
        """Returns all answers to question `i`, each as often as it was given."""
        return self._texts(i).suffixes

    def question_kind(self, i: int) -> str:
        """Returns what question `i` asks for, e.g. `colour`; empty if the set does not say."""
        return self._texts(i).kind

    def shuffle(self, start: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns places of the endless shuffled order; see Source."""
        if self._blocks is not None:
            return self._blocks.shuffle(start, count, seed)
        return stream.shuffled(len(self), start, count, seed)

    def statistics(self) -> None:
        """Questions have no actions."""

    def state_statistics(self) -> None:
        """Questions have no state."""

    def texts(self) -> list[str]:
        """Returns the distinct questions and answers, sorted; reads all examples."""
        prefixes, suffixes = self._distinct()
        return sorted(prefixes | suffixes)

    def written(self, prompts: PromptsConfig, most: int | None = None) -> set[str]:
        """Returns the distinct texts as training writes them: prompts, and answers as they are.

        Reads all examples; of more than `most`, every n-th.
        """
        prefixes, suffixes = self._distinct(1 if most is None else -(-len(self) // most))
        wording = prompts.as_it_is if self._layout.is_prompt else prompts.for_web
        said = (wording(text) for text in prefixes if not is_blank(text))
        return {*said, *suffixes}

    def distinct(self, most: int | None = None) -> Iterator[tuple[int, str, Role]]:
        """Yields the distinct questions and answers; see Source. Reads the examples."""
        seen: set[tuple[str, Role]] = set()
        question: Role = "prompt" if self._layout.is_prompt else "question"
        answer: Role = "places" if self.places else "answer"
        for i in range(0, len(self), 1 if most is None else -(-len(self) // most)):
            try:
                texts = self._texts(i)
            except UserError:  # told with its place when it is drawn
                continue
            found: list[tuple[str, Role]] = [(text, answer) for text in texts.suffixes]
            found.append((texts.prefix, question))
            for text, role in found:
                if (text, role) not in seen:
                    seen.add((text, role))
                    yield i, text, role

    def _distinct(self, every: int = 1) -> tuple[set[str], set[str]]:
        """Returns the distinct questions and the distinct answers of every n-th example."""
        prefixes, suffixes = set(), set()
        for i in range(0, len(self), every):
            try:
                texts = self._texts(i)
            except UserError:  # told with its place when it is drawn
                continue
            prefixes.add(texts.prefix)
            suffixes.update(texts.suffixes)
        return prefixes, suffixes

    def _texts(self, i: int) -> Texts:
        _, row = self.index.locate(self._part[i])
        data = self._read(i, row.start + row.text_start, row.start + row.text_end)
        return self._parse(data, row.is_plain, self.place(i))

    def _parse(self, text: bytes, is_plain: bool, where: str) -> Texts:
        fields = self._form.fields(text, is_plain, self._layout.names, where)
        return self._layout.read(fields, where)

    def _read(self, i: int, start: int, end: int) -> bytes:
        """Reads bytes of the file that example `i` is in."""
        try:
            if self._blocks is not None:
                return self._blocks.read(i, 0, start, end)
            return self.index.files.read(self.index.locate(self._part[i])[0], start, end)
        except UserError as error:
            raise UserError(f"{self.place(i)}: {str(error).rstrip('.')}") from error


def _open_blocks(name: str, index: ExampleIndex, part: range, config: BlocksConfig) -> BlockReader:
    """Reads the examples of a part as one stream, in blocks that end with their file."""

    def cover(firsts: np.ndarray, lasts: np.ndarray) -> np.ndarray:
        begin, end = index.spans(part.start + firsts), index.spans(part.start + lasts)
        return np.concatenate([begin[:, :2], end[:, 2:]], axis=1)[:, None]

    return BlockReader(index.files, index.runs(part), cover, config, name=name)
