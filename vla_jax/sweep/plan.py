"""From a sweep to its runs: the command of each, its place on disk, and what it waits for."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypedDict

from vla_jax.core import config as config_lib
from vla_jax.core.errors import UserError, listed
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.workdir import binding
from vla_jax.sweep.sweep import Arm, Needs, Sweep

# From the arguments of `vla-jax train` to the configuration it would run.
Resolve = Callable[[Sequence[str]], RunConfig]
PREREQUISITES = "prerequisites"


class Lineage(TypedDict):
    """What a run was made from: its configuration, and the same of each run that it needs."""

    config: dict[str, Any]
    needs: "dict[str, Lineage]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training of a sweep.

    Attributes:
      arm: its arm's name.
      seed: its seed.
      arguments: of `vla-jax train`.
      config: the resolved configuration, as JSON values.
      directory: holds its workdir, its log and its record.
      set: what its arm sets, `Needs` included.
      needs: prerequisites that must be done before it starts.
      measured: False for a prerequisite that is no baseline.
      made_from: 12 hexadecimal digits, equal for runs of the same configuration from the same
        prerequisites, whatever the sweep, the machine or the directory.
    """

    arm: str
    seed: int
    arguments: tuple[str, ...]
    config: dict[str, Any]
    directory: pathlib.Path
    set: Mapping[str, Any]
    needs: "tuple[Run, ...]"
    measured: bool
    made_from: str

    @property
    def name(self) -> str:
        """The name by which a user calls it."""
        return f"{self.arm}-seed{self.seed}"

    @property
    def workdir(self) -> pathlib.Path:
        """The workdir of the training."""
        return self.directory / "run"

    @property
    def steps(self) -> int:
        """Updates until it is done."""
        return self.config["loop"]["steps"]

    def lineage(self) -> Lineage:
        """Returns its configuration and those of all that it was made from, as JSON values."""
        needs = {run.name: run.lineage() for run in self.needs}
        return Lineage(config=self.config, needs=needs)


def plan(
    sweep: Sweep, root: pathlib.Path, resolve: Resolve, extra: Sequence[str] = ()
) -> tuple[Run, ...]:
    """Expands a sweep.

    Args:
      sweep: the definition.
      root: the sweep's directory; prerequisites go beside it, where other sweeps find them.
      resolve: parses the arguments of `vla-jax train`.
      extra: `--config.field=value` for every run.

    Returns:
      Every run after those that it needs; the first seed of every arm before the second of any, so
      that a sweep cut short compares as much as it can. Prerequisites that no arm needs are absent.

    Raises:
      UserError: a field or value is refused by the configuration, cannot be given as a flag, or two
        runs would be the same.
    """
    made: dict[tuple[str, int], Run] = {}
    beside = root.parent / PREREQUISITES
    for arm in sweep.prerequisites:
        for seed in sweep.seeds if arm.seeds is None else arm.seeds:
            shown = arm.name in sweep.baselines
            made[arm.name, seed] = _run(sweep, arm, seed, beside, resolve, extra, made, shown)
    runs = [
        _run(sweep, arm, seed, root / "runs", resolve, extra, made, True)
        for seed in sorted({s for arm in sweep.arms for s in arm.seeds or sweep.seeds})
        for arm in sweep.arms
        if seed in (sweep.seeds if arm.seeds is None else arm.seeds)
    ]
    _check_distinct(runs)
    needed = {need.name for run in runs for need in _ancestors(run)}
    return (*(run for run in made.values() if run.name in needed), *runs)


def _run(
    sweep: Sweep,
    arm: Arm,
    seed: int,
    folder: pathlib.Path,
    resolve: Resolve,
    extra: Sequence[str],
    made: Mapping[tuple[str, int], Run],
    measured: bool,
) -> Run:
    values = {**sweep.set, **arm.set, "seed": seed}
    needs = {
        value.name: _find(made, value.name, seed, arm)
        for value in values.values()
        if isinstance(value, Needs)
    }
    plain = {
        field: str(needs[value.name].workdir) if isinstance(value, Needs) else value
        for field, value in values.items()
    }
    flags = (_flag(field, value) for field, value in plain.items())
    arguments = (f"--config={arm.config or sweep.config}", *flags, *extra)
    try:
        config = config_lib.to_json(resolve(arguments))
    except UserError as error:
        raise UserError(f"arm {arm.name}: {str(error).removesuffix('.')}") from error
    given = {argument.removeprefix("--config.").partition("=")[0] for argument in extra}
    for field, value in plain.items():
        if field not in given:
            _check_value(arm, field, value, config)
    run = Run(
        arm=arm.name,
        seed=seed,
        arguments=arguments,
        config=config,
        directory=folder / f"{arm.name}-seed{seed}",
        set=arm.set,
        needs=tuple(needs.values()),
        measured=measured,
        made_from=_digest(config, needs.values(), values),
    )
    return dataclasses.replace(run, arguments=(*arguments, f"--workdir={run.workdir}"))


def _digest(config: Mapping[str, Any], needs: Collection[Run], values: Mapping[str, Any]) -> str:
    """Digests what binds a run, but for the directories of what it needs."""
    places = {f"config.{field}" for field, value in values.items() if isinstance(value, Needs)}
    fields = dict(config_lib.leaves(config))
    bound = {name: fields[name] for name in binding(list(fields)) if name not in places}
    made_from = sorted(need.made_from for need in needs)
    text = json.dumps([bound, made_from], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _find(made: Mapping[tuple[str, int], Run], name: str, seed: int, arm: Arm) -> Run:
    runs = {s: run for (n, s), run in made.items() if n == name}
    if seed not in runs and len(runs) != 1:
        raise UserError(
            f"arm {arm.name}, seed {seed}",
            expected=f"prerequisite {name} with this seed, or with one seed for all",
            found=f"seeds {listed(runs)}",
        )
    return runs[seed] if seed in runs else next(iter(runs.values()))


def _flag(field: str, value: Any) -> str:
    return f"--config.{field}={str(value).lower() if isinstance(value, bool) else value}"


def _check_value(arm: Arm, field: str, value: Any, config: Mapping[str, Any]) -> None:
    """Holds a value that went through a flag against what came out of it."""
    found: Any = config
    for name in field.split("."):
        found = found[name]
    if found != _as_json(value):
        raise UserError(
            f"arm {arm.name}: {field}",
            expected=repr(value),
            found=f"{found!r} after it went through a flag",
            fix="Make it a variant of the config file and name that in Arm.config",
        )


def _as_json(value: Any) -> Any:
    return [_as_json(item) for item in value] if isinstance(value, tuple | list) else value


def _ancestors(run: Run) -> list[Run]:
    return [found for need in run.needs for found in (need, *_ancestors(need))]


def _check_distinct(runs: Sequence[Run]) -> None:
    for number, run in enumerate(runs):
        for other in runs[:number]:
            if run.config == other.config:
                raise UserError(
                    f"{other.name} and {run.name} are the same run",
                    fix="Let their arms differ in a field of the configuration",
                )
