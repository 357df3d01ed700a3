"""What the checks look at: the numbers and texts of one split, seen through its adapter."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vla_jax.actions.spec import ActionSpec
from vla_jax.core.arrays import Bool, Float, Int
from vla_jax.core.errors import UserError
from vla_jax.core.words import is_blank
from vla_jax.data import standard
from vla_jax.data.doctor.finding import Finding, conclude
from vla_jax.data.frame_index import FrameIndex
from vla_jax.data.robots.robot import Columns, Robot

_ACTION = re.compile(r"^(steps/)?actions?(/|$)")
# What spreads less than this, relative to its size or to 1, does not move: float32 rounds by a
# thirtieth of it, and no motion in metres or radians is so small.
_NOISE = 4e-6
_LANGUAGE = re.compile(r"language|instruction", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
    """One split of one dataset.

    Attributes:
      columns: every number that the index holds.
      action: float32 [i, a]: the adapter's standard action, or without an adapter all numbers of
        the features called action, one after the other.
      names: of the action dimensions.
      spec: the adapter's action space, None without one.
      state: float32 [i, s] or None.
      keep: bool [i], the steps that are trained on.
      texts: language feature -> the text's number at each step [i], and the distinct texts.
      cameras: the image features to look at, the main one first.
      image: (camera, i) -> the encoded image.
      place: i -> "DATASET shard S episode E step T".
    """

    columns: Columns
    action: Float[np.ndarray, "i a"]
    names: tuple[str, ...]
    spec: ActionSpec | None
    state: Float[np.ndarray, "i s"] | None
    keep: Bool[np.ndarray, " i"]
    texts: Mapping[str, tuple[Int[np.ndarray, " i"], list[str]]]
    cameras: tuple[str, ...]
    image: Callable[[str, int], bytes]
    place: Callable[[int], str]

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.columns.episode)

    @functools.cached_property
    def rows(self) -> Int[np.ndarray, " k"]:
        """The steps that are trained on and whose action is finite."""
        return np.flatnonzero(self.keep & np.isfinite(self.action).all(1))

    @functools.cached_property
    def values(self) -> Float[np.ndarray, "k a"]:
        """The action at `rows`, as float64, in which nothing that float32 holds overflows."""
        return self.action[self.rows].astype(np.float64)

    @functools.cached_property
    def quantiles(self) -> Float[np.ndarray, "2 a"]:
        """q01 and q99 of the action over `rows`; zeros where there are none."""
        if not len(self.rows):
            return np.zeros((2, self.action.shape[1]))
        return np.quantile(self.values, [0.01, 0.99], axis=0)

    @functools.cached_property
    def dead(self) -> Bool[np.ndarray, " a"]:
        """The dimensions whose quantiles are the same but for what float32 rounds."""
        low, high = self.quantiles
        return high - low <= _NOISE * np.maximum(1, np.maximum(np.abs(low), np.abs(high)))

    @functools.cached_property
    def lengths(self) -> Int[np.ndarray, " e"]:
        """Steps of each episode."""
        return np.bincount(self.columns.episode)

    @functools.cached_property
    def starts(self) -> Int[np.ndarray, " e"]:
        """The first step of each episode."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def grippers(self) -> list[int]:
        """The action dimensions that are grippers, by name."""
        return [k for k, name in enumerate(self.names) if "grip" in name.lower()]

    @property
    def ranged(self) -> list[int]:
        """The action dimensions that are motions: neither grippers nor discrete."""
        discrete = self.spec.discrete if self.spec else (False,) * len(self.names)
        grippers = self.grippers
        return [k for k in range(len(self.names)) if k not in grippers and not discrete[k]]

    def instruction(self, i: int) -> str:
        """Returns the first text at step `i` that is not blank; "" if there is none."""
        found = (texts[ids[i]].strip() for ids, texts in self.texts.values())
        return next((text for text in found if not is_blank(text)), "")


def read(index: FrameIndex, robot: Robot | None) -> tuple[Recording, Finding]:
    """Looks at an index through an adapter, or at its raw numbers where that cannot be.

    Args:
      index: of the split, with all that `robot` names.
      robot: the adapter; None where none is known.

    Returns:
      The Recording, and the Finding about schema and adapter.
    """
    arrays = {name: index.array(name) for name in _indexed(index, "array")}
    columns = Columns(arrays=arrays, episode=np.asarray(index.episode))
    if robot is None:
        view = _raw(columns, index)
        text = "no adapter is known, the raw numbers are examined; name one with --robot"
        finding = conclude("schema", [("note", text)], "")
    else:
        try:
            view = _standard(columns, robot)
            finding = conclude("schema", [], f"as the adapter {robot.name} expects")
        except UserError as error:
            view = _raw(columns, index)
            finding = unfit(error)
    texts = {
        name: (index.text_ids(name), index.distinct_texts(name)) for name in view.pop("language")
    }
    recording = Recording(
        columns=columns, texts=texts, image=index.image_bytes, place=index.place, **view
    )
    return recording, finding


def unfit(error: UserError) -> Finding:
    """Makes a Finding of what an adapter stumbled over."""
    text = f"{str(error).rstrip('.')}; the raw numbers are examined instead"
    return conclude("schema", [("error", text)], "", score=0)


def _indexed(index: FrameIndex, role: str) -> list[str]:
    """Names the features that the index has in a role; lists of texts are answers, not language."""
    return [c.name for c in index.columns if c.role == role and not c.is_list]


def _standard(columns: Columns, robot: Robot) -> dict[str, Any]:
    """Returns the fields of a Recording that come from the adapter.

    Raises:
      UserError: the adapter fails on these numbers.
    """
    return {
        "action": standard.apply(robot, "action", columns),
        "state": standard.apply(robot, "state", columns) if robot.state is not None else None,
        "keep": standard.apply(robot, "keep", columns),
        "names": robot.spec.names,
        "spec": robot.spec,
        "cameras": tuple(robot.images.values()),
        "language": robot.instruction,
    }


def _raw(columns: Columns, index: FrameIndex) -> dict[str, Any]:
    """Returns the fields of a Recording without an adapter: what is called action is the action."""
    count = len(columns.episode)
    parts: list[np.ndarray] = [np.zeros((count, 0), np.float32)]
    names: list[str] = []
    for feature in sorted(name for name in columns.arrays if _ACTION.match(name)):
        values = columns[feature].reshape(count, -1)
        leaf, size = feature.rpartition("/")[2], values.shape[1]
        names += [leaf] if size == 1 else [f"{leaf}[{k}]" for k in range(size)]
        parts.append(values)
    return {
        "action": np.concatenate(parts, axis=1).astype(np.float32),
        "names": tuple(names),
        "spec": None,
        "state": None,
        "keep": np.ones(count, bool),
        "cameras": index.cameras,
        "language": [name for name in _indexed(index, "text") if _LANGUAGE.search(name)],
    }
