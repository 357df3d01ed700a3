"""Robot episodes of one dataset as a mixture source: the training part or the held-out part.

The split is by episode, so that no held-out frame has a neighbour in training.
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from vla_jax.actions.statistics import Statistics
from vla_jax.core.arrays import Float
from vla_jax.core.batch import Example
from vla_jax.core.errors import UserError
from vla_jax.core.words import is_blank
from vla_jax.data import beside, standard, stream
from vla_jax.data.blocks import Blocks, BlocksConfig
from vla_jax.data.episode_walk import OnCorrupt
from vla_jax.data.flaw import Flaw, of_left_out, refuse
from vla_jax.data.frame_index import FrameIndex
from vla_jax.data.robots.robot import Robot
from vla_jax.tokens.encoder import Role

Part = Literal["train", "held_out", "all"]


class Episodes:
    """Frames of the chosen episodes, by number.

    Args:
      index: the dataset, with the features that the adapter names.
      robot: the adapter.
      name: of the source; None takes the adapter's.
      part: `train`, `held_out`, or `all` for both.
      held_out: share of episodes held out, 0..1.
      views: views wanted, in order; those that the robot lacks are absent from its examples.
      chunk: actions of an example, this step's first.
      history: steps whose images an example has, this one the last.
      episodes: the episodes to look at before they are divided; None is all of them.
      blocks: reads in block mode, for object storage; None reads frame by frame.
      plans: whether examples say what the demonstrator was about to do.
      on_corrupt: whether steps with an impossible number are an error, or left out.

    Attributes:
      episodes: number of episodes of this part.
      flaws: what was left out: records that cannot be read, steps with an impossible number.
      ram: bytes that reading may hold.
      dropped: why steps of these episodes are not examples, and how many.

    Raises:
      UserError: no episode or no usable step in this part, none of the views, an adapter whose
        action is not as its spec says, something that is an error, or plans where there are none.
    """

    kind: Literal["robot", "web"] = "robot"

    def __init__(
        self,
        index: FrameIndex,
        robot: Robot,
        *,
        name: str | None = None,
        part: Part = "train",
        held_out: float = 0.0,
        views: tuple[str, ...] = ("primary",),
        chunk: int = 1,
        history: int = 1,
        episodes: range | None = None,
        blocks: BlocksConfig | None = None,
        plans: bool = False,
        on_corrupt: OnCorrupt = "error",
    ):
        self.name, self.spec, self.robot = name or robot.name, robot.spec, robot
        self._index, self._history, self._chunk = index, history, chunk
        self._cameras = _cameras(robot, views, self.name)
        self._standard = standard.open_standard(index, robot)
        self.state_size = len(robot.state_names) if robot.state is not None else 0
        self._starts = index.starts
        self._wordings = [_texts(index, feature) for feature in robot.instruction]
        self._plan = _plan_feature(robot, self.name) if plans else None
        self._planned = [] if self._plan is None else [_texts(index, self._plan)]
        meaning = self._standard.fingerprint
        key = standard.digest(meaning, robot.instruction, part, held_out, episodes)
        self.fingerprint = standard.digest(key, list(self._cameras.items()), chunk, history)
        if self._plan is not None:
            self.fingerprint = standard.digest(self.fingerprint, self._plan)
        chosen = _part(index, part, held_out, episodes)
        self.episodes = int(chosen.sum())
        self.flaws = self._find_flaws(chosen)
        if self.flaws and on_corrupt == "error":
            raise refuse(self.flaws)
        kept = beside.keep(index, f"part-{key}", lambda folder: self._write_part(folder, chosen))
        self._frames, summary = kept.load("frames.npy"), kept.values
        self._kept = (kept, self._standard.kept)
        self.dropped: dict[str, int] = summary["dropped"]
        self._blocks = None
        if blocks is not None:
            cameras = tuple(self._cameras.values())
            self._blocks = Blocks(index, self._frames, cameras, blocks, history=history)
            # A place in this order means nothing in another.
            self.fingerprint = standard.digest(self.fingerprint, self._blocks.signature)
        self.ram = 0 if blocks is None else blocks.budget
        self._statistics = {
            field: Statistics.from_json(summary[field]) if summary[field] else None
            for field in ("action", "state")
        }

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._frames)

    def example(self, i: int, draw: int = 0) -> Example:
        """Reads frame `i`; `draw` picks among its wordings.

        Raises:
          UserError: its bytes cannot be read, or are not what was indexed.
        """
        for folder in self._kept:
            folder.raise_if_damaged()
        k = int(self._frames[i])
        episode = int(self._index.episode[k])
        first, end = int(self._starts[episode]), int(self._starts[episode + 1])
        action, mask = self._actions(k, end)
        return Example(
            images={
                view: self._window(camera, i, k, first) for view, camera in self._cameras.items()
            },
            prefix=self._instruction(k, draw),
            action=action,
            action_mask=mask,
            state=self._standard.state[k] if self.state_size else None,
            plan=None if self._plan is None else self._index.text(self._plan, k),
            dataset=self.name,
            episode=episode,
            t=k - first,
        )

    def place(self, i: int) -> str:
        """Says where frame `i` lies: dataset, shard, episode and step."""
        return self._index.place(int(self._frames[i]))

    def shuffle(self, start: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns places `start` to `start + count` of the endless shuffled order, and epochs."""
        if self._blocks is not None:
            return self._blocks.shuffle(start, count, seed)
        return stream.shuffled(len(self), start, count, seed)

    def statistics(self) -> Statistics:
        """Returns the statistics of these frames' actions, robot units."""
        assert self._statistics["action"] is not None
        return self._statistics["action"]

    def actions(self, most: int) -> Float[np.ndarray, "i a"]:
        """Returns the actions of these frames, robot units; of more than `most`, every n-th."""
        return self._standard.action[self._frames[:: -(-len(self) // most)]]

    def chunks(self, most: int) -> Float[np.ndarray, "b n a"]:
        """Returns the actions of examples, robot units; of more than `most`, every n-th."""
        frames = self._frames[:: -(-len(self) // most)].tolist()
        ends = self._starts[self._index.episode[frames] + 1].tolist()
        return np.stack([self._actions(k, end)[0] for k, end in zip(frames, ends, strict=True)])

    def state_statistics(self) -> Statistics | None:
        """Returns the statistics of these frames' states; None without state."""
        return self._statistics["state"]

    def texts(self) -> list[str]:
        """Returns the distinct instructions of these frames, sorted."""
        return self._distinct(self._wordings)

    def distinct(self, most: int | None = None) -> Iterator[tuple[int, str, Role]]:
        """Yields the distinct instructions and plans, each with the first frame that has it."""
        del most  # there are few, and the index knows them
        for texts, ids in self._wordings:
            yield from self._firsts(texts, ids, "instruction")
        for texts, ids in self._planned:
            yield from self._firsts(texts, ids, "plan")

    def plans(self) -> list[str]:
        """Returns the distinct plans of these frames, sorted; none where they are not wanted."""
        return self._distinct(self._planned)

    def _firsts(
        self, texts: list[str], ids: np.ndarray, role: Role
    ) -> Iterator[tuple[int, str, Role]]:
        numbers, firsts = np.unique(ids[self._frames], return_index=True)
        for number, first in zip(numbers.tolist(), firsts.tolist(), strict=True):
            if not is_blank(texts[number]):  # another wording is taken
                yield first, texts[number], role

    def _distinct(self, wordings: Sequence[tuple[list[str], np.ndarray]]) -> list[str]:
        """Returns the texts that these frames have, sorted."""
        found = {texts[k] for texts, ids in wordings for k in np.unique(ids[self._frames]).tolist()}
        return sorted(text for text in found if not is_blank(text))

    def _actions(self, k: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the actions from frame `k` on, and which of them are in the episode and kept."""
        stop = min(k + self._chunk, end)
        action, mask = self._standard.action[k:stop], self._standard.keep[k:stop]
        if missing := k + self._chunk - stop:
            action = np.concatenate([action, np.repeat(action[-1:], missing, axis=0)])
            mask = np.concatenate([mask, np.zeros(missing, bool)])
        return action, mask

    def _window(self, camera: str, i: int, k: int, first: int) -> tuple[bytes | None, ...]:
        return tuple(
            self._image(camera, i, step) if step >= first else None
            for step in range(k - self._history + 1, k + 1)
        )

    def _image(self, camera: str, i: int, step: int) -> bytes:
        if self._blocks is not None:
            return self._blocks.image_bytes(camera, step, i)
        return self._index.image_bytes(camera, step)

    def _instruction(self, k: int, draw: int) -> str:
        wordings = [text for texts, ids in self._wordings if not is_blank(text := texts[ids[k]])]
        return wordings[draw % len(wordings)]

    def _find_flaws(self, chosen: np.ndarray) -> list[Flaw]:
        """Returns what was left out: records of the dataset, and steps of the chosen episodes."""
        impossible, episode = self._standard.impossible.items(), self._index.episode
        return [
            *map(of_left_out, self._index.left_out),
            *(flaw for frame, flaw in impossible if chosen[episode[frame]]),
        ]

    def _write_part(self, folder: pathlib.Path, chosen: np.ndarray) -> dict[str, Any]:
        """Writes which frames the part has; returns their statistics."""
        spoken = np.zeros(len(self._index), bool)
        for texts, ids in self._wordings:
            spoken |= np.array([not is_blank(text) for text in texts], bool)[ids]
        inside, keep = chosen[self._index.episode], self._standard.keep
        frames = np.flatnonzero(inside & keep & spoken)
        bad = np.zeros(len(keep), bool)
        bad[list(self._standard.impossible)] = True
        dropped = {
            "not kept by the adapter": int((inside & ~keep & ~bad).sum()),
            "with an impossible number": int((inside & bad).sum()),
            "without an instruction": int((inside & keep & ~spoken).sum()),
        }
        if not len(frames):
            raise UserError(
                f"dataset {self._index.directory}: no step to train on",
                expected="steps with an instruction that the adapter keeps",
                found=", ".join(f"{count} {reason}" for reason, count in dropped.items()),
                fix="Check `keep` and `instruction` of its adapter, or look with vla-jax doctor",
            )
        np.save(folder / "frames.npy", frames)
        values = {"action": self._standard.action, "state": self._standard.state}
        summary = {
            field: Statistics.of(rows[frames]).to_json() if rows.shape[1] else None
            for field, rows in values.items()
        }
        return {**summary, "dropped": dropped}


def _texts(index: FrameIndex, feature: str) -> tuple[list[str], np.ndarray]:
    return index.distinct_texts(feature), index.text_ids(feature)


def _plan_feature(robot: Robot, name: str) -> str:
    if robot.plan is None:
        raise UserError(
            f"dataset {name}: plans, which config.prompts.plan wants",
            expected="an adapter that names their feature",
            found="none",
            fix="Set --config.prompts.plan=none",
        )
    return robot.plan


def _cameras(robot: Robot, views: Sequence[str], name: str) -> dict[str, str]:
    """Returns the image features of the views that a robot has; it has to have some."""
    found = {view: robot.images[view] for view in views if view in robot.images}
    if not found:
        raise UserError(
            f"dataset {name}: config.loader.views {', '.join(views)}",
            expected=f"at least one of its views {', '.join(robot.images)}",
        )
    return found


def _part(index: FrameIndex, part: Part, share: float, selected: range | None) -> np.ndarray:
    """Marks the episodes of a part, bool [e]: the held-out ones are evenly spread."""
    numbers = np.arange(index.episodes) if selected is None else np.asarray(selected)
    held_out = np.diff(np.floor(np.arange(len(numbers) + 1) * share)) > 0
    keep = {"train": ~held_out, "held_out": held_out, "all": np.ones(len(numbers), bool)}[part]
    chosen = np.zeros(index.episodes, bool)
    chosen[numbers[keep]] = True
    if not chosen.any():
        raise UserError(
            f"dataset {index.directory}: no episode in the part {part!r}",
            expected="at least one of each part",
            found=f"{index.episodes} episodes and config.loader.held_out={share}",
            fix="Raise config.loader.held_out or add episodes",
        )
    return chosen
