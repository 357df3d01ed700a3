"""Examples -> the arrays of one Batch, each image decoded straight into its place."""

import dataclasses
import math
from collections.abc import Sequence

import cv2
import numpy as np

from vla_jax.actions.normalize import Normalizer
from vla_jax.core.arrays import Int
from vla_jax.core.batch import Batch, Example
from vla_jax.core.errors import UserError
from vla_jax.data import images
from vla_jax.data.augment import AugmentConfig, box, colours, crops
from vla_jax.data.source import Source
from vla_jax.tokens.encoder import Encoder

cv2.setNumThreads(1)  # the loader decodes one image per thread of its own


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What a row of a batch holds beside its tokens.

    Attributes:
      views: views of a step, in order.
      history: steps whose images it has, the present one last.
      chunk: actions of an example.
      continuous: whether it has actions and state as numbers too.
      image_size: side of the images, pixels.
      resize: how they get there.
      augment: how far they are changed at random.
      state: size of the state that the model takes, 0 for none.
    """

    views: tuple[str, ...] = ("primary",)
    history: int = 1
    chunk: int = 1
    continuous: bool = False
    image_size: int
    resize: images.Resize = "linear"
    augment: AugmentConfig = AugmentConfig()
    state: int = 0
    max_pixels: int = images.MOST_PIXELS


def check(example: Example, encoder: Encoder, max_pixels: int) -> None:
    """Checks that texts and images of an example can be used, the latter of so many pixels.

    Raises:
      UserError: a text cannot be written, or an image is damaged.
    """
    encoder.check(example)
    for view, window in example.images.items():
        for data in window:
            if data is not None:
                images.decode(data, view, most_pixels=max_pixels)


class Collator:
    """Makes batches of one layout.

    Args:
      sources: the mixture sources, as `Batch.source` numbers them.
      encoder: writes the tokens.
      layout: what a row holds.
    """

    def __init__(self, sources: Sequence[Source], encoder: Encoder, layout: Layout):
        self.sources, self.encoder, self.layout = tuple(sources), encoder, layout
        self.slots = encoder.layout.prefix + encoder.layout.suffix
        widest = [source.spec.size for source in sources if source.spec is not None]
        self.actions = max(widest, default=0) if layout.continuous else 0
        widest_state = max((source.state_size for source in sources), default=0)
        self.states = layout.state or (widest_state if layout.continuous else 0)
        if widest_state > self.states > 0:
            raise UserError(
                "config.model.state",
                expected=f"at least {widest_state}, the state of a robot of the mixture, or 0",
                found=self.states,
            )
        self.normalizers = [
            _normalizers(source) if layout.continuous or layout.state else (None, None)
            for source in sources
        ]

    def start(self, source: Int[np.ndarray, " b"], draws: Int[np.ndarray, " b"]) -> "Rows":
        """Returns an empty batch for examples of these sources with these draws (uint64)."""
        return Rows(self, source, draws)

    def bytes(self, rows: int) -> int:
        """Returns the size of a batch of `rows` examples, about."""
        side = self.layout.image_size
        pixels = self.layout.history * len(self.layout.views) * side * side * 3
        numbers = 5 * (self.slots + self.layout.chunk * self.actions + self.states)
        return rows * (pixels + numbers + 64)


class Rows:
    """A batch that is being filled, in any order and by several threads."""

    def __init__(self, collator: Collator, source: np.ndarray, draws: np.ndarray):
        layout, rows = collator.layout, len(source)
        self._collator, self._source = collator, source
        self._crops = crops(layout.augment, draws)
        self._colours = colours(layout.augment, draws)
        size, images_per_row = layout.image_size, layout.history * len(layout.views)
        self._images = np.empty((rows, images_per_row, size, size, 3), np.uint8)
        self._image_mask = np.zeros((rows, images_per_row), bool)
        self._tokens = np.empty((rows, collator.slots), np.int32)
        self._prefix_length = np.empty(rows, np.int32)
        self._loss_mask = np.empty((rows, collator.slots), bool)
        self._actions = np.zeros((rows, layout.chunk, collator.actions), np.float32)
        self._action_mask = np.zeros(self._actions.shape, bool)
        self._state = np.zeros((rows, collator.states), np.float32)
        self._state_mask = np.zeros(self._state.shape, bool)

    def decode(self, row: int, example: Example, whose: str = "") -> None:
        """Decodes the images of an example into its row.

        Args:
          row: which.
          example: the example.
          whose: what follows the name of a view in messages; nothing where the caller adds it.

        Raises:
          UserError: an image is damaged; names the view.
        """
        layout = self._collator.layout
        for number, view in enumerate(layout.views):
            window = example.images.get(view, (None,) * layout.history)
            for step, data in enumerate(window):
                slot = step * len(layout.views) + number
                self._image_mask[row, slot] = data is not None
                if data is None:
                    self._images[row, slot] = 0
                else:
                    self._place(row, slot, data, view + whose)

    def write(self, rows: Sequence[int] | np.ndarray, examples: Sequence[Example]) -> None:
        """Writes the tokens and, where wanted, the numbers of examples into their rows.

        Raises:
          UserError: a text or an action does not fit its slots.
        """
        encoded = self._collator.encoder.encode_all(examples)
        self._tokens[rows], self._prefix_length[rows], self._loss_mask[rows] = encoded
        for row, example in zip(rows, examples, strict=True):
            self._write_numbers(row, example)

    def finish(self) -> Batch:
        """Returns the batch; every row has been decoded and written."""
        layout, has_state = self._collator.layout, self._collator.states > 0
        return Batch(
            images=self._images,
            image_mask=self._image_mask,
            tokens=self._tokens,
            prefix_length=self._prefix_length,
            loss_mask=self._loss_mask,
            source=self._source.astype(np.int32),
            actions=self._actions if layout.continuous else None,
            action_mask=self._action_mask if layout.continuous else None,
            state=self._state if has_state else None,
            state_mask=self._state_mask if has_state else None,
            colour=self._colours if layout.augment.on_device else None,
        )

    def _write_numbers(self, row: int, example: Example) -> None:
        of_action, of_state = self._collator.normalizers[self._source[row]]
        layout = self._collator.layout
        if layout.continuous and example.action is not None and of_action is not None:
            assert example.action_mask is not None
            width = example.action.shape[1]
            self._actions[row, :, :width] = of_action.normalize(example.action)
            self._action_mask[row, :, :width] = example.action_mask[:, None]
        if example.state is not None and of_state is not None:
            self._state[row, : len(example.state)] = of_state.normalize(example.state)
            self._state_mask[row, : len(example.state)] = True

    def _place(self, row: int, slot: int, data: bytes, name: str) -> None:
        layout, out = self._collator.layout, self._images[row, slot]
        if layout.resize == "lanczos":
            image = images.decode(data, name, most_pixels=layout.max_pixels)
        else:
            side = 1.0 if self._crops is None else self._crops[row, 0]
            at_least = math.ceil(layout.image_size / side)
            image = images.decode(data, name, at_least=at_least, most_pixels=layout.max_pixels)
        if self._crops is not None:
            image = image[box(self._crops[row], *image.shape[:2])]
        if self._colours is None or layout.augment.on_device:
            images.resize(image, layout.image_size, layout.resize, out=out)
        else:
            image = images.resize(image, layout.image_size, layout.resize)
            cv2.transform(image, self._colours[row], dst=out)


def _normalizers(source: Source) -> tuple[Normalizer | None, Normalizer | None]:
    """Returns what maps the actions and the states of a source to [-1, 1], where it has them."""
    actions, states = source.statistics(), source.state_statistics()
    return (
        Normalizer(actions, source.spec) if actions is not None else None,
        Normalizer(states) if states is not None else None,
    )
