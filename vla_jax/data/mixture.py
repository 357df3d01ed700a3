"""What a run trains on and in which proportions: named mixtures, weights, robot to web ratio."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from vla_jax.core.errors import UserError, listed, nearest
from vla_jax.core.fields import Checked, Natural, PathText, Share, Weight
from vla_jax.data import splits
from vla_jax.data.mixtures import MIXTURES
from vla_jax.data.source import Source
from vla_jax.data.stream import Plan, Schedule
from vla_jax.data.web.table import WebConfig

Weights = Literal["relative", "absolute"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobotConfig(Checked):
    """One robot dataset of a mixture.

    Attributes:
      weight: its weight among the robot datasets, above 0.
      dir: TFDS version directory; None looks in the data directory.
      adapter: `module:NAME` of a Robot outside this package; None takes the one in
        `data/robots/table.py` that is called like the dataset.
      split: split and slice by episode, e.g. `train[:95%]`.

    Raises:
      UserError: the split is not of that form.
    """

    weight: Weight = 1.0
    dir: PathText | None = None
    adapter: str | None = None
    split: str = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        splits.parse(self.split)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureConfig(Checked):
    """The datasets and their proportions.

    Attributes:
      robot_share: share of robot examples in every batch, 0..1; the rest are web questions.
        RT-2 uses about 0.5 (PaLI-X) and 0.66 (PaLM-E), by sampling and not by loss weights.
      schedule: (step, share) points, linear between them and constant outside; overrides
        `robot_share` where there is any.
      weights: `relative` multiplies each dataset's number of examples by its weight, `absolute`
        takes the weights as shares.
      name: a mixture of `data/mixtures.py`; None for the inline `robots` alone.
      robots: robot datasets by name; one that the named mixture has too replaces its entry.
      web: question sets by name.

    Raises:
      UserError: an unknown mixture, a weight that is not positive, a share that is not 0..1,
        schedule steps that do not rise, or a stream that is wanted and has no dataset.
    """

    robot_share: Share = 0.5
    schedule: tuple[tuple[Natural, Share], ...] = ()
    weights: Weights = "relative"
    name: str | None = "tabletop"
    robots: dict[str, RobotConfig] = dataclasses.field(default_factory=dict)
    web: dict[str, WebConfig] = dataclasses.field(
        default_factory=lambda: {"tabletop_questions": WebConfig(layout="tabletop")}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = [step for step, _ in self.schedule]
        if sorted(set(steps)) != steps:
            raise UserError("config.mixture.schedule", expected="rising steps", found=steps)
        if self.name is not None and self.name not in MIXTURES:
            raise UserError(
                f"config.mixture.name: no mixture {self.name!r}",
                expected=f"{listed(sorted(MIXTURES))}, or None with config.mixture.robots",
                fix=nearest(self.name, list(MIXTURES)),
            )
        twice = sorted(resolve(self).keys() & self.web.keys())
        if twice:
            raise UserError(
                f"config.mixture: {twice[0]!r} is a robot dataset and a question set",
                expected="different names",
            )
        self._check_streams()

    @property
    def points(self) -> tuple[tuple[int, float], ...]:
        """The robot share by step, a constant one as a single point."""
        return self.schedule or ((0, self.robot_share),)

    def _check_streams(self) -> None:
        shares = [share for _, share in self.points]
        if max(shares) > 0 and not resolve(self):
            raise UserError(
                "config.mixture: no robot dataset",
                expected="a name, an entry of robots, or robot_share=0.0",
                found=f"a robot share of {max(shares)}",
            )
        if min(shares) < 1 and not self.web:
            raise UserError(
                "config.mixture.web: no question set",
                expected="an entry, or robot_share=1.0",
                found=f"a robot share of {min(shares)}",
            )


def resolve(config: MixtureConfig) -> dict[str, RobotConfig]:
    """Returns the robot datasets of the mixture, sorted by name."""
    named = MIXTURES[config.name] if config.name is not None else {}
    entries = {name: RobotConfig(weight=weight) for name, weight in named.items()}
    return dict(sorted({**entries, **config.robots}.items()))


def shares(weights: Sequence[float], sizes: Sequence[int], mode: Weights) -> tuple[float, ...]:
    """Returns the effective share of each dataset in its stream; they sum to 1.

    Args:
      weights: positive.
      sizes: examples of each dataset.
      mode: whether weights multiply sizes (`relative`) or stand for themselves (`absolute`).
    """
    products = [
        weight * size if mode == "relative" else weight
        for weight, size in zip(weights, sizes, strict=True)
    ]
    return tuple(product / sum(products) for product in products)


def make_plan(config: MixtureConfig, sources: Sequence[Source], batch_size: int) -> Plan:
    """Returns the order of examples over the opened datasets of a mixture.

    Args:
      config: the mixture.
      sources: its datasets, robots first; a stream that no batch wants may be left out.
      batch_size: examples of a global batch.

    Raises:
      UserError: a source that the mixture does not name, an empty one, or none for a stream that
        batches want.
      ValueError: a robot after a web source.
    """
    kinds = [source.kind for source in sources]
    if kinds != sorted(kinds):  # alphabetical, as it happens
        raise ValueError(f"robots come first, not {kinds}")
    wanted = [share for _, share in config.points]
    for kind, is_wanted in (("robot", max(wanted) > 0), ("web", min(wanted) < 1)):
        if is_wanted and kind not in kinds:
            raise UserError(
                f"config.mixture: no {kind} dataset was opened", expected="at least one"
            )
    robots = _stream_shares(resolve(config), sources, "robot", config.weights)
    web = _stream_shares(config.web, sources, "web", config.weights)
    return Plan(robots=robots, web=web, schedule=Schedule(config.points), batch_size=batch_size)


def _stream_shares(
    entries: Mapping[str, RobotConfig] | Mapping[str, WebConfig],
    sources: Sequence[Source],
    kind: str,
    mode: Weights,
) -> tuple[float, ...]:
    chosen = [source for source in sources if source.kind == kind]
    for source in chosen:
        if source.name not in entries:
            raise UserError(
                f"config.mixture: no dataset {source.name!r}",
                expected=f"one of {listed(entries)}",
                fix=nearest(source.name, list(entries)),
            )
        if not len(source):
            raise UserError(f"dataset {source.name}: no examples", expected="at least one")
    weights = [entries[source.name].weight for source in chosen]
    return shares(weights, [len(source) for source in chosen], mode) if chosen else ()
