"""The mixture ledger: what of each source a run asks for, gets, and how often it sees it."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vla_jax.data import mixture
from vla_jax.data.episodes import Episodes
from vla_jax.data.skipped import Skipped
from vla_jax.data.source import Source
from vla_jax.tokens.encoder import Encoder

_NAMED = 100  # skipped items that are named
_SAMPLED = 64  # examples encoded to estimate the tokens of a source

HEADER = (
    "source",
    "weight",
    "requested",
    "effective",
    "realised",
    "examples",
    "episodes",
    "drawn",
    "epochs",
    "tokens",
    "supervised",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One source over a whole run.

    Attributes:
      name: the source.
      weight: as configured.
      requested: share of the run by the weights alone, 0..1.
      effective: share by the weights in their mode (multipliers on size, or shares), 0..1.
      realised: share of the examples that the run really draws, 0..1.
      examples: frames or questions there are.
      episodes: episodes they come from; questions count as one each.
      drawn: examples the run draws.
      epochs: how often it sees each.
      tokens: text tokens drawn, padding left out, estimated from evenly spread examples.
      supervised: those of them in the loss.
    """

    name: str
    weight: float
    requested: float
    effective: float
    realised: float
    examples: int
    episodes: int
    drawn: int
    epochs: float
    tokens: float
    supervised: float

    def row(self) -> tuple[str, ...]:
        """Returns the entry as cells under `HEADER`."""
        return (
            self.name,
            f"{self.weight:g}",
            *(f"{share:.3%}" for share in (self.requested, self.effective, self.realised)),
            *(f"{count:,}" for count in (self.examples, self.episodes, self.drawn)),
            f"{self.epochs:.2f}",
            f"{self.tokens:.3g}",
            f"{self.supervised:.3g}",
        )


def entries(
    config: mixture.MixtureConfig,
    sources: Sequence[Source],
    encoder: Encoder,
    skipped: Skipped,
    *,
    batch_size: int,
    steps: int,
) -> list[Entry]:
    """Computes the ledger of a run before it begins; the order of examples is known.

    Args:
      config: the mixture.
      sources: its opened datasets, robots first.
      encoder: counts tokens.
      skipped: what becomes of examples that cannot be used.
      batch_size: examples of a global batch.
      steps: updates of the run.
    """
    plan = mixture.make_plan(config, sources, batch_size)
    drawn = plan.drawn(steps)
    robot_share = float(plan.schedule.total(steps)) / steps
    configured = {**mixture.resolve(config), **config.web}
    out = []
    for number, source in enumerate(sources):
        stream = [other for other in sources if other.kind == source.kind]
        weights = [configured[other.name].weight for other in stream]
        place = stream.index(source)
        part = robot_share if source.kind == "robot" else 1 - robot_share
        sizes = [len(other) for other in stream]
        asked, given = (
            mixture.shares(weights, sizes, mode)[place] * part
            for mode in ("absolute", config.weights)
        )
        count = int(drawn[number])
        tokens, supervised = _tokens(source, encoder, skipped)
        out.append(
            Entry(
                name=source.name,
                weight=weights[place],
                requested=asked,
                effective=given,
                realised=count / (steps * batch_size),
                examples=len(source),
                episodes=source.episodes,
                drawn=count,
                epochs=count / len(source),
                tokens=count * tokens,
                supervised=count * supervised,
            )
        )
    return out


def left_out(robots: Iterable[Episodes]) -> list[str]:
    """Returns a line for each dataset some of whose steps are no examples: how many, and why."""
    return [
        f"{robot.name}: {sum(robot.dropped.values()):,} of "
        f"{len(robot) + sum(robot.dropped.values()):,} steps are left out: "
        + ", ".join(f"{count:,} {reason}" for reason, count in robot.dropped.items() if count)
        for robot in robots
        if any(robot.dropped.values())
    ]


def skipped(found: Skipped) -> dict[str, Any]:
    """Returns what was skipped as JSON values: `counts` by kind; `first`, named with reasons."""
    flaws = list(found.flaws.values())[:_NAMED]
    return {"counts": found.counts(), "first": [flaw.to_json() for flaw in flaws]}


def _tokens(source: Source, encoder: Encoder, skipped: Skipped) -> tuple[float, float]:
    """Returns the mean number of text tokens per example, and of supervised ones."""
    chosen = [i * len(source) // _SAMPLED for i in range(_SAMPLED)]
    found = [skipped.sound(source, i, use=encoder.check)[1] for i in dict.fromkeys(chosen)]
    rows = [encoder.encode(example) for example in found]
    prefix = encoder.layout.prefix
    valid = [length + np.count_nonzero(tokens[prefix:]) for tokens, length, _ in rows]
    return float(np.mean(valid)), float(np.mean([mask.sum() for _, _, mask in rows]))
