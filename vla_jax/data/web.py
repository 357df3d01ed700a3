"""Web questions of one TFDS dataset as frames: image, question, answer."""

import os
from collections.abc import Iterator

from vla_jax.core.batch import Frame
from vla_jax.data import images
from vla_jax.data.frame_index import FrameIndex

_IMAGE, _QUESTION, _ANSWER, _KIND = "image", "question", "answer", "kind"


class Questions:
    """Question and answer pairs, by index.

    Args:
      directory: TFDS version directory with features image, question, answer, kind.
      split: the split to read, e.g. `train` or `validation`.
      image_size: side of the images handed out, pixels.
    """

    name = "web"

    def __init__(self, directory: str | os.PathLike[str], *, split: str, image_size: int):
        self._size = image_size
        self._index = FrameIndex(
            directory, split, images=(_IMAGE,), texts=(_QUESTION, _ANSWER, _KIND)
        )

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._index)

    def frame(self, i: int) -> Frame:
        """Reads and decodes pair `i`."""
        image = images.decode(self._index.image_bytes(_IMAGE, i), f"{self.name} example {i}")
        return Frame(
            images={"primary": images.resize(image, self._size)},
            prefix=self._index.text(_QUESTION, i),
            suffix=self._index.text(_ANSWER, i),
            dataset=self.name,
            episode=i,
        )

    def kind(self, i: int) -> str:
        """Returns what pair `i` asks for, e.g. `colour`."""
        return self._index.text(_KIND, i)

    def texts(self) -> Iterator[str]:
        """Yields every question and every answer."""
        for i in range(len(self)):
            yield self._index.text(_QUESTION, i)
            yield self._index.text(_ANSWER, i)
