"""What a policy looks at: images of the present and the past, and where the robot is."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from vla_jax.actions.normalize import Normalizer
from vla_jax.actions.statistics import Statistics
from vla_jax.core.arrays import Bool, Float, UInt8
from vla_jax.core.batch import Example
from vla_jax.core.errors import UserError
from vla_jax.data import augment
from vla_jax.data import images as images_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation:
    """One observation as the model takes it; slots are laid out as in a Batch.

    Attributes:
      images: uint8 [w, y, x, 3], all views of the oldest step first; 0 where absent.
      image_mask: bool [w], False where a view is absent.
      state: float32 [s] in [-1, 1], padded to the model's size; None for a model without.
      state_mask: bool [s], False beyond the robot's dimensions; None for a model without.
    """

    images: UInt8[np.ndarray, "w y x 3"]
    image_mask: Bool[np.ndarray, " w"]
    state: Float[np.ndarray, " s"] | None = None
    state_mask: Bool[np.ndarray, " s"] | None = None


def stack(observations: Sequence[Observation]) -> dict[str, np.ndarray]:
    """Returns observations as the model's arguments, by name; those it does not take are absent."""
    fields = [field.name for field in dataclasses.fields(Observation)]
    return {
        name: np.stack([getattr(observation, name) for observation in observations])
        for name in fields
        if getattr(observations[0], name) is not None
    }


class Observer:
    """Makes observations as training made them.

    Args:
      views: names of the camera views, in the order of training.
      history: steps whose images the model takes, the present one last.
      image_size: side of the images the model takes, pixels.
      resize: how images are resized.
      centre: share of the area of images that is looked at (`AugmentConfig.centre`).
      state: size of the state the model takes, 0 for none.
      statistics: of the robot's state; None where it has none.
      max_pixels: of a stored image (`images.decode`).
    """

    def __init__(
        self,
        *,
        views: Sequence[str],
        history: int = 1,
        image_size: int,
        resize: images_lib.Resize = "linear",
        centre: float = 1.0,
        state: int = 0,
        statistics: Statistics | None = None,
        max_pixels: int | None = None,
    ):
        self.views, self.history, self.image_size = tuple(views), history, image_size
        self.resize: images_lib.Resize = resize
        self.centre, self._crop = centre, augment.centre(centre)
        self.state, self._max_pixels = state, max_pixels
        self._normalizer = None if statistics is None else Normalizer(statistics)

    def look(
        self,
        images: Mapping[str, UInt8[np.ndarray, "y x 3"] | Sequence[UInt8[np.ndarray, "y x 3"]]],
        state: Float[np.ndarray, " s"] | None = None,
    ) -> Observation:
        """Checks, crops, resizes and stacks what cameras and joints say.

        Args:
          images: view name -> uint8 RGB of any size, or the last of them, oldest first.
          state: proprioception in robot units; needed where model and robot have one.

        Raises:
          UserError: a view is missing or unknown, an image is not RGB uint8, there are more steps
            than the model takes or none, the state is missing or of another size.
        """
        if set(images) != set(self.views):
            raise UserError(
                "observation images",
                expected=f"the views {', '.join(self.views)}",
                found=", ".join(images) or "none",
            )
        windows: dict[str, list[np.ndarray | None]] = {}
        for view, given in images.items():
            is_one = isinstance(given, np.ndarray) and given.ndim != 4
            steps = [given] if is_one else list(given)
            if not 1 <= len(steps) <= self.history:
                raise UserError(
                    f"observation images of {view}",
                    expected=f"1 to {self.history} steps (config.loader.history), oldest first",
                    found=len(steps),
                )
            windows[view] = [images_lib.check(np.asarray(image), view) for image in steps]
        return self._place(windows, self._checked(state))

    def read(self, example: Example) -> Observation:
        """Decodes and resizes a stored example; views that it lacks are absent.

        Raises:
          UserError: an image is damaged.
        """
        side = math.sqrt(self.centre)
        at_least = math.ceil(self.image_size / side) if self.resize == "linear" else None
        decode = functools.partial(
            images_lib.decode, at_least=at_least, most_pixels=self._max_pixels
        )
        windows = {
            view: [
                None if data is None else decode(data, example.name)
                for data in example.images.get(view, ())[-self.history :]
            ]
            for view in self.views
        }
        return self._place(windows, example.state)

    def _place(
        self, windows: Mapping[str, Sequence[np.ndarray | None]], state: np.ndarray | None
    ) -> Observation:
        size, slots = self.image_size, self.history * len(self.views)
        images = np.zeros((slots, size, size, 3), np.uint8)
        mask = np.zeros(slots, bool)
        for number, view in enumerate(self.views):
            steps = windows[view]
            for step, image in enumerate(steps, start=self.history - len(steps)):
                if image is not None:
                    slot = step * len(self.views) + number
                    mask[slot] = True
                    middle = image[augment.box(self._crop, *image.shape[:2])]
                    images[slot] = images_lib.resize(middle, size, self.resize)
        if not self.state:
            return Observation(images=images, image_mask=mask)
        values, known = np.zeros(self.state, np.float32), np.zeros(self.state, bool)
        if state is not None and self._normalizer is not None:
            values[: len(state)] = self._normalizer.normalize(state)
            known[: len(state)] = True
        return Observation(images=images, image_mask=mask, state=values, state_mask=known)

    def _checked(self, state: np.ndarray | None) -> np.ndarray | None:
        if not self.state or self._normalizer is None:
            return None
        size = self._normalizer.size
        if state is None or np.shape(state) != (size,):
            raise UserError(
                "observation state",
                expected=f"{size} numbers in robot units",
                found="none" if state is None else f"shape {np.shape(state)}",
            )
        return np.asarray(state, np.float32)
