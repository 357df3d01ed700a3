"""What a trained policy can do: the fixed episodes, the questions, the held-out demonstrations."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from vla_jax.data.episodes import Episodes
from vla_jax.data.web.questions import Questions
from vla_jax.eval import latency, open_loop, round_trip, vqa
from vla_jax.eval.closed_loop import Outcome
from vla_jax.eval.rate import Rate
from vla_jax.eval.record import Record
from vla_jax.experiment import flaws, sources, trials
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.sources import Data
from vla_jax.experiment.trials import OnProgress, Trials
from vla_jax.policy.policy import Policy
from vla_jax.runtime import provenance

_WRITTEN = 20_000  # examples whose quantisation is measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """Everything measured of a policy.

    Attributes:
      records: the episodes played.
      environment: where (`Trials.fingerprint`); None if nowhere.
      vqa: rate of right answers per kind of question.
      open_loop: error per action dimension in robot units, token accuracy, log-likelihoods.
      quantisation: mean error per action dimension of the training actions once they are written as
        tokens and read again, in robot units.
      latency: milliseconds of one decision on this machine, `decode_ms`.
      filmed: split and outcome of the episodes that were filmed.
    """

    records: Sequence[Record] = ()
    environment: Mapping[str, Any] | None = None
    vqa: Mapping[str, Rate] = dataclasses.field(default_factory=dict)
    open_loop: Mapping[str, float] = dataclasses.field(default_factory=dict)
    quantisation: Mapping[str, float] = dataclasses.field(default_factory=dict)
    latency: Mapping[str, float] = dataclasses.field(default_factory=dict)
    filmed: Sequence[tuple[str, Outcome]] = ()

    @property
    def success(self) -> dict[str, Rate]:
        """The rate per split, and `SPLIT/TASK`."""
        return trials.success(self.records)

    @property
    def wrong_block(self) -> dict[str, Rate]:
        """The share of episodes per split whose first grasp was another block."""
        return trials.wrong_block(self.records)

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers as JSON values, and by which code they were taken."""
        rates = {
            name: {key: rate.to_json() for key, rate in getattr(self, name).items()}
            for name in ("success", "wrong_block", "vqa")
        }
        return rates | {
            "open_loop": {k: round(v, 5) for k, v in self.open_loop.items()},
            "quantisation": dict(self.quantisation),
            "latency": {k: round(v, 3) for k, v in self.latency.items()},
            "environment": self.environment,
            "film": [
                {
                    "split": split,
                    "seed": outcome.episode.seed,
                    "instruction": outcome.instruction,
                    "success": outcome.success,
                    "steps": outcome.steps,
                }
                for split, outcome in self.filmed
            ],
            "code": provenance.code(),
        }


def quick(config: RunConfig, policies: Mapping[str, Policy]) -> dict[str, float]:
    """Returns the success per split in a few of the tabletop's episodes, during training."""
    policy = tabletop_policy(policies)
    if policy is None:
        return {}
    played = Trials.of_run(config, config.evaluation.quick_episodes).play(policy)
    return {
        split: Rate.of(outcome.success for outcome in outcomes).rate
        for split, outcomes in played.items()
    }


def tabletop_policy(policies: Mapping[str, Policy]) -> Policy | None:
    """Returns the policy that can drive the embedded world, if there is one."""
    return policies.get(sources.TABLETOP)


def ask(
    config: RunConfig, policies: Mapping[str, Policy], web: Mapping[str, Questions]
) -> dict[str, Rate]:
    """Asks the held-out questions of every web source.

    Returns:
      The rate of right answers per kind of question; `SOURCE/KIND` where there are several sources.
    """
    policy = next(iter(policies.values()), None)  # any: questions have no robot
    rates: dict[str, Rate] = {}
    # Of those there are to be: a set that cannot be opened gives no other its name.
    several = sum(each.held_out is not None for each in config.mixture.web.values()) > 1
    for name, questions in web.items():
        if policy is None:
            break
        read = functools.partial(flaws.sound(config, policy.encoder), questions)
        answers = vqa.answer_all(policy, questions, config.evaluation.questions, read=read)
        found = vqa.rates(answers, locations=config.tokenizer.locations)
        rates |= {f"{name}/{k}" if several else k: rate for k, rate in found.items()}
    return rates


def evaluate(
    config: RunConfig, policies: Mapping[str, Policy], data: Data, on_progress: OnProgress
) -> Results:
    """Measures everything: closed loop on the run's splits, questions, held-out demonstrations."""
    policy = tabletop_policy(policies)
    closed_loop = Results()
    if policy is not None:
        wanted = Trials.of_run(config, config.evaluation.episodes)
        closed_loop = drive(wanted, policy, config.evaluation.film, on_progress)
    return dataclasses.replace(
        closed_loop,
        vqa=ask(config, policies, data.web_held_out),
        open_loop=_errors(config, policies, data.robots_held_out),
        quantisation=_quantisation(policies, data.robots),
        latency=_latency(config, policies, data.robots_held_out),
    )


def drive(
    wanted: Trials, policy: trials.Actor, film: int, on_progress: OnProgress = trials.silent
) -> Results:
    """Measures in closed loop alone, and films some of the episodes."""
    outcomes = wanted.play(policy, on_progress)
    records = trials.records(outcomes)
    return Results(
        records=records,
        environment=wanted.fingerprint(records),
        filmed=wanted.film(policy, outcomes, film),
    )


def _quantisation(
    policies: Mapping[str, Policy], robots: Mapping[str, Episodes]
) -> dict[str, float]:
    """Errors of writing actions as tokens; `ROBOT/...` where there are several robots."""
    return {
        f"{name}/{dimension.name}" if len(policies) > 1 else dimension.name: dimension.mean
        for name, robot in robots.items()
        if name in policies
        for dimension in round_trip.measure(policies[name].action_tokens, robot.chunks(_WRITTEN))
    }


def _latency(
    config: RunConfig, policies: Mapping[str, Policy], held_out: Mapping[str, Episodes]
) -> dict[str, float]:
    """Times the decisions; `ROBOT/...` where there are several robots."""
    return {
        f"{name}/decode_ms" if len(policies) > 1 else "decode_ms": latency.decode_ms(
            policies[name], flaws.sound(config, policies[name].encoder)(episodes, 0)[1]
        )
        for name, episodes in held_out.items()
        if name in policies
    }


def _errors(
    config: RunConfig, policies: Mapping[str, Policy], held_out: Mapping[str, Episodes]
) -> dict[str, float]:
    """Errors on held-out demonstrations; `ROBOT/...` where there are several robots."""
    errors: dict[str, float] = {}
    for name, episodes in held_out.items():
        if name not in policies:
            continue
        count = min(config.evaluation.frames, len(episodes))
        sound = flaws.sound(config, policies[name].encoder)
        chosen = [sound(episodes, i * len(episodes) // count)[1] for i in range(count)]
        found = open_loop.action_error(policies[name], chosen)
        errors |= {f"{name}/{k}" if len(policies) > 1 else k: v for k, v in found.items()}
    return errors
