"""What evaluation has to know of an environment; the environment itself is imported when made."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gymnasium

from vla_jax.core.episode import Episode
from vla_jax.core.errors import UserError, listed, nearest

FIRST_SEED = 1_000_000  # far from any seed of a demonstration


class Maker(Protocol):
    """Builds an environment."""

    def __call__(self, *, image_size: int | None = None, film: bool = False) -> gymnasium.Env:
        """Imports what is needed and builds it.

        Args:
          image_size: side in pixels of the images that the policy was trained on; None, or an
            environment whose cameras have a size of their own: theirs.
          film: whether `render` will be asked for a picture (uint8 [y, x, 3]) at every step.

        Raises:
          UserError: a package is missing or of another version; says what to install.
        """
        ...


class Options(Protocol):
    """Turns a place in a fixed set of episodes into the options of a reset."""

    def __call__(self, split: str, task: str, trial: int) -> Mapping[str, Any]:
        """Returns the options of trial 0, 1, ... of a task in a split; JSON values."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """One environment that policies are evaluated in.

    What `make` returns observes a dict with `instruction`, the images that `views` names (uint8
    [y, x, 3]) and, where it has one, `state` in robot units; takes actions in the units of the
    ActionSpec of `robots`, out of bounds clipped; says `success` in the info of the last step; ends
    by itself after `max_steps`; and after a reset with seed and options is a function of the two.

    Attributes:
      name: as `vla-jax eval --env=NAME` calls it.
      robots: adapters of `data/robots/table.py` whose actions it takes; the policy is of one.
      views: the policy's name of a view -> the observation's.
      tasks: split -> all its tasks, in the order in which they take turns.
      default_splits: those played unless others are asked for; empty: all.
      default_tasks: those played unless others are asked for; empty: all of the split.
      trials: trials of each task in a published number.
      least: episodes of a split in such a number, at least; those of few tasks then have more.
      max_steps: most steps of any episode.
      protocol: how the published numbers were taken, in words, and their source.
      apart: whether each environment gets a process of its own: those that take longer to step
        than it costs to ask another process.
      packages: distributions whose versions decide what happens in it.
      options: what `reset` is given beside the seed.
      make: builds it.
    """

    name: str
    robots: tuple[str, ...]
    views: Mapping[str, str]
    tasks: Mapping[str, tuple[str, ...]]
    default_splits: tuple[str, ...] = ()
    default_tasks: tuple[str, ...] = ()
    trials: int
    least: int = 0
    max_steps: int
    protocol: str
    apart: bool = False
    packages: tuple[str, ...] = ()
    options: Options
    make: Maker

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits, in order."""
        return tuple(self.tasks)

    @property
    def usual_splits(self) -> tuple[str, ...]:
        """Those played unless others are asked for."""
        return self.default_splits or self.splits

    def tasks_of(self, split: str, tasks: Sequence[str] = ()) -> tuple[str, ...]:
        """Returns the tasks that are played in a split: those asked for that it has, or the usual.

        Raises:
          UserError: there is no such split, no split has a task of this name, or none is left.
        """
        if split not in self.tasks:
            raise self._unknown("split", split, self.splits)
        every = list(dict.fromkeys(task for there in self.tasks.values() for task in there))
        for task in tasks:
            if task not in every:
                raise self._unknown("task", task, every)
        there = self.tasks[split]
        if not tasks:
            return tuple(task for task in there if task in self.default_tasks) or there
        played = tuple(task for task in tasks if task in there)
        if not played:
            raise self._unknown(f"task of {split} among", listed(tasks), there)
        return played

    def episodes(
        self, split: str, count: int | None = None, tasks: Sequence[str] = (), seed: int = 0
    ) -> list[Episode]:
        """Returns the fixed episodes of a split, the tasks taking turns.

        Args:
          split: which.
          count: how many; by default `trials` of each task, or `least`. Fewer are the first of
            more.
          tasks: which tasks; the usual ones by default.
          seed: 0 for the set that numbers are compared on, others for other sets.

        Raises:
          UserError: see `tasks_of`.
        """
        played = self.tasks_of(split, tasks)
        count = max(self.trials * len(played), self.least) if count is None else count
        return [
            Episode(
                seed=FIRST_SEED * (1 + seed) + number,
                options=self.options(split, played[number % len(played)], number // len(played)),
            )
            for number in range(count)
        ]

    def versions(self) -> dict[str, str]:
        """Returns the installed version of each of `packages`."""
        found = {}
        for package in self.packages:
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[package] = "not installed as a package"
        return found

    def _unknown(self, what: str, name: str, names: Sequence[str]) -> UserError:
        return UserError(
            f"{self.name}: no {what} {name!r}",
            expected=f"some of {listed(names)}",
            fix=nearest(name, names),
        )
