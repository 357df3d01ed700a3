"""A sweep: which runs there are and what is compared; `experiments/NAME/sweep.py` holds one."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from vla_jax.core import paths, user_code
from vla_jax.core.errors import UserError, listed, nearest

_NAME = re.compile(r"[\w.,=+-]+")  # of a directory, on every file system and in every shell


@dataclasses.dataclass(frozen=True)
class Needs:
    """A value of `Arm.set`: the workdir of a prerequisite, which is run first.

    Attributes:
      name: of the prerequisite; its run of the same seed is taken, or its only one.
    """

    name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One setting, run once per seed.

    Attributes:
      name: unique in its sweep; letters, digits and `_.,=+-`.
      set: values by field of the configuration, such as `{"bins.count": 64}`; see `Needs`.
      config: FILE.py:variant to start from; None takes that of the sweep.
      seeds: None takes those of the sweep.
    """

    name: str
    set: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: str | None = None
    seeds: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Smoke:
    """The same sweep in a minute: whether it runs, not what it finds.

    Attributes:
      set: values that win over those of every arm.
      config: takes the place of every other config; None leaves them.
      arms: names of the arms that are run; None runs all.
      seeds: take the place of those of the sweep.
    """

    set: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: str | None = None
    arms: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = (0,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Arms times seeds, and what is measured.

    Attributes:
      config: FILE.py:variant that the arms start from.
      arms: what is compared; `arms.grid` and `arms.random` make them.
      measures: what is read from each results.json, by the name it gets: a path such as
        `success/seen`, or several of which the mean is taken.
      seeds: the runs of each arm; error bars are over them.
      set: values for every arm, which the arm's own override.
      prerequisites: runs that arms need; not measured, and shared by sweeps in one folder. One may
        need those before it.
      baselines: prerequisites whose results get a row as well, such as what the arms started from.
      reference: the arm that the others are tested against.
      axis: field of the configuration along which pictures are drawn; None draws arm by arm.
      drawn: measures that get a panel in the picture; none draws all.
      pareto: two measures that are drawn against each other; None draws no such picture.
      smoke: the short form.

    Raises:
      UserError: a name is used twice, is unknown, or is no name.
    """

    config: str
    arms: tuple[Arm, ...]
    measures: Mapping[str, str | tuple[str, ...]]
    seeds: tuple[int, ...] = (0, 1, 2)
    set: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prerequisites: tuple[Arm, ...] = ()
    baselines: tuple[str, ...] = ()
    reference: str | None = None
    axis: str | None = None
    drawn: tuple[str, ...] = ()
    pareto: tuple[str, str] | None = None
    smoke: Smoke = Smoke()

    def __post_init__(self) -> None:
        for what in ("arms", "measures", "seeds"):
            if not getattr(self, what):
                raise UserError(f"{what} of the sweep", expected="at least one", found="none")
        everything = (*self.prerequisites, *self.arms)
        _check_names([arm.name for arm in everything])
        for seeds in (self.seeds, *(arm.seeds for arm in everything if arm.seeds is not None)):
            if len(set(seeds)) < len(seeds) or not seeds:
                raise UserError("seeds of the sweep", expected="some, each once", found=seeds)
        if self.axis is not None:
            _check_axis(self.axis, self.arms)
        names = [arm.name for arm in self.prerequisites]
        arms = [arm.name for arm in self.arms]
        _check_known("drawn in the sweep: measure", self.drawn, self.measures)
        _check_known("pareto of the sweep: measure", self.pareto, self.measures)
        _check_known("arm of the smoke form", self.smoke.arms, arms)
        _check_known("reference: arm", self.reference and [self.reference], arms)
        _check_known("baseline", self.baselines, names)
        for number, arm in enumerate(self.prerequisites):
            _check_needs(arm, names[:number])
        for arm in self.arms:
            _check_needs(arm, names)

    def shortened(self) -> "Sweep":
        """Returns its smoke form."""
        smoke = self.smoke

        def short(arm: Arm) -> Arm:
            return dataclasses.replace(
                arm,
                set={**arm.set, **smoke.set},
                config=smoke.config or arm.config,
                seeds=None if arm.seeds is None else smoke.seeds[: len(arm.seeds)],
            )

        kept = [arm for arm in self.arms if smoke.arms is None or arm.name in smoke.arms]
        named = self.reference in [arm.name for arm in kept]
        needed = {value for arm in kept for value in arm.set.values() if isinstance(value, Needs)}
        return dataclasses.replace(
            self,
            config=smoke.config or self.config,
            arms=tuple(map(short, kept)),
            prerequisites=tuple(map(short, self.prerequisites)),
            baselines=tuple(name for name in self.baselines if Needs(name) in needed),
            seeds=smoke.seeds,
            reference=self.reference if named else None,
        )


def load(path: str | os.PathLike[str]) -> tuple[str, Sweep]:
    """Reads a sweep file.

    Args:
      path: a Python file with `SWEEP = Sweep(...)`.

    Returns:
      Its name, which is its folder's where the file is called sweep.py, and the sweep.

    Raises:
      UserError: there is no such file, it does not run, or it has no SWEEP.
    """
    try:
        names = user_code.run_file(path, "sweep")
    except UserError as error:  # that of a field does not say whose it is
        text = str(error).removesuffix(".")
        raise UserError(text if str(path) in text else f"sweep {path}: {text}") from error
    found = names.get("SWEEP")
    if not isinstance(found, Sweep):
        what = type(found).__name__ if "SWEEP" in names else "no SWEEP"
        raise UserError(f"sweep {path}", expected="SWEEP = Sweep(...)", found=what)
    file = pathlib.Path(paths.expand(path))
    name = file.resolve().parent.name if file.stem == "sweep" else file.stem
    return name, found


def _check_names(names: list[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name):
            expected = "letters, digits and _.,=+-"
            raise UserError("name of an arm", expected=expected, found=repr(name))
        if names.count(name) > 1:
            raise UserError(f"two arms are called {name}")


def _check_axis(axis: str, arms: tuple[Arm, ...]) -> None:
    along = [arm.set[axis] for arm in arms if axis in arm.set]
    if not along or not all(isinstance(value, int | float) for value in along):
        expected = "a field that arms set to numbers"
        raise UserError("axis of the sweep", expected=expected, found=axis)


def _check_needs(arm: Arm, names: list[str]) -> None:
    for value in arm.set.values():
        if isinstance(value, Needs):
            _check_known(f"prerequisite of {arm.name}", [value.name], names)


def _check_known(what: str, wanted: Iterable[str] | None, names: Collection[str]) -> None:
    for name in wanted or ():
        if name not in names:
            expected = listed(names) or "none"
            raise UserError(what, expected=expected, found=name, fix=nearest(name, list(names)))
