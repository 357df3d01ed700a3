"""What a robot dataset's adapter says: which feature is which field, what an action means."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from vla_jax.actions.spec import ActionSpec
from vla_jax.core.errors import UserError

# Plain arrays in the signatures: the processes that generate data import this and need no JAX.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """The numbers of a whole dataset, one row per step in file order.

    Attributes:
      arrays: feature -> [i, ...]; a feature of the episode is repeated at every step.
      episode: int [i], the episode of each step, not decreasing.
    """

    arrays: Mapping[str, np.ndarray]
    episode: np.ndarray

    def __getitem__(self, feature: str) -> np.ndarray:
        """Returns a feature, [i, ...]."""
        return self.arrays[feature]

    @property
    def first(self) -> np.ndarray:
        """Bool [i], True at the first step of each episode."""
        return np.diff(self.episode, prepend=-1) != 0

    @property
    def last(self) -> np.ndarray:
        """Bool [i], True at the last step of each episode."""
        return np.diff(self.episode, append=-1) != 0

    def next(self, values: np.ndarray) -> np.ndarray:
        """Returns `values` [i, ...] of the step after each; the last step repeats its own."""
        shifted = np.concatenate([values[1:], values[-1:]])
        last = self.last.reshape(-1, *[1] * (values.ndim - 1))
        return np.where(last, values, shifted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Robot:
    """One robot dataset in RLDS form.

    Attributes:
      name: the name of the dataset, as its TFDS directory is called.
      images: view name (`primary`, `secondary`, `wrist`, `wrist_left`, `wrist_right`) -> image
        feature.
      instruction: language features, per step or per episode; one is drawn among those that are
        not empty.
      plan: language feature of what the demonstrator is about to do, which not every dataset of
        this robot need have; None where none has.
      arrays: the float and integer features that the functions below read.
      action: computes float32 [i, a] in the units of `spec` from the columns.
      state: computes float32 [i, s], or None.
      state_names: one name with its unit per state dimension, e.g. `"x (m)"`.
      keep: bool [i], the steps to train on; None keeps all.
      spec: the action space.
      source: where the convention comes from.

    Raises:
      UserError: `instruction`, `arrays` or `state_names` is no tuple of names.
    """

    name: str
    images: Mapping[str, str]
    instruction: tuple[str, ...]
    plan: str | None = None
    arrays: tuple[str, ...]
    action: Callable[[Columns], np.ndarray]
    state: Callable[[Columns], np.ndarray] | None = None
    state_names: tuple[str, ...] = ()
    keep: Callable[[Columns], np.ndarray] | None = None
    spec: ActionSpec
    source: str

    def __post_init__(self) -> None:
        for field in ("instruction", "arrays", "state_names"):
            value = getattr(self, field)
            if not isinstance(value, tuple) or not all(isinstance(name, str) for name in value):
                raise UserError(
                    f"robot {self.name}: {field}",
                    expected="a tuple of names, such as ('steps/language_instruction',)",
                    found=repr(value),
                )
