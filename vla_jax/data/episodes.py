"""Robot episodes of one dataset as frames: the training part or the held-out part.

The split is by episode, so that no held-out frame has a neighbour in training.
"""

import os
from collections.abc import Iterator
from typing import Literal

import numpy as np

from vla_jax.actions.statistics import Statistics
from vla_jax.core.batch import Frame
from vla_jax.core.errors import UserError
from vla_jax.data import images
from vla_jax.data.frame_index import FrameIndex
from vla_jax.data.robots.robot import Robot


class Episodes:
    """Frames of the chosen episodes, by index.

    Args:
      directory: TFDS version directory of an RLDS dataset.
      robot: its adapter.
      part: `train` or `held_out`.
      held_out: share of episodes held out, 0..1.
      image_size: side of the images handed out, pixels.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        robot: Robot,
        *,
        part: Literal["train", "held_out"],
        held_out: float,
        image_size: int,
    ):
        self.name, self._robot, self._size = robot.name, robot, image_size
        self._index = FrameIndex(
            directory,
            "train",
            images=tuple(robot.images.values()),
            arrays=(robot.action,),
            texts=(robot.instruction,),
        )
        actions = self._index.array(robot.action)
        if actions.shape[1] != robot.spec.size:
            raise UserError(
                f"dataset {directory}, feature {robot.action!r}",
                expected=f"{robot.spec.size} action dimensions ({', '.join(robot.spec.names)})",
                found=actions.shape[1],
            )
        chosen = _held_out(self._index.episodes, held_out)
        if part == "train":
            chosen = ~chosen
        self._frames = np.flatnonzero(chosen[self._index.episode])
        if not len(self._frames):
            raise UserError(
                f"dataset {directory}: no episode in the part {part!r}",
                expected="at least one of each part",
                found=f"{self._index.episodes} episodes and config.loader.held_out={held_out}",
                fix="Raise config.loader.held_out or add episodes",
            )

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._frames)

    def frame(self, i: int) -> Frame:
        """Reads and decodes frame `i`."""
        index, robot = self._index, self._robot
        k = int(self._frames[i])
        episode, t = int(index.episode[k]), int(index.t[k])
        name = f"{self.name} episode {episode} step {t}"
        return Frame(
            images={
                view: images.resize(images.decode(index.image_bytes(feature, k), name), self._size)
                for view, feature in robot.images.items()
            },
            prefix=index.text(robot.instruction, k),
            action=index.array(robot.action)[k][None],
            dataset=self.name,
            episode=episode,
            t=t,
        )

    def texts(self) -> Iterator[str]:
        """Yields the instruction of every frame."""
        return (self._index.text(self._robot.instruction, int(k)) for k in self._frames)

    def statistics(self) -> Statistics:
        """Computes the action statistics over these frames."""
        return Statistics.of(self._index.array(self._robot.action)[self._frames])


def _held_out(episodes: int, share: float) -> np.ndarray:
    """Marks about `share` of the episodes, evenly spread and the same in every run: bool [e]."""
    whole = np.floor(np.arange(episodes + 1) * share)
    return np.diff(whole) > 0
