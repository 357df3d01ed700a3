"""What a trained policy can do: the fixed episodes, the questions, the tables."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vla_jax.data.episodes import Episodes
from vla_jax.data.web.questions import Questions
from vla_jax.envs.tabletop import world
from vla_jax.envs.tabletop.env import TabletopConfig, TabletopEnv
from vla_jax.envs.tabletop.world import Split
from vla_jax.eval import closed_loop, open_loop, vqa
from vla_jax.eval.closed_loop import Episode, Outcome
from vla_jax.eval.rate import Rate
from vla_jax.experiment import sources
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.sources import Data
from vla_jax.policy.policy import Policy

_FIRST_SEED = 1_000_000  # far from any seed of a demonstration
OnProgress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """Everything measured at the end of a run.

    Attributes:
      success: rate per split, and `SPLIT/TASK` for each task of `seen`.
      wrong_block: share of episodes per split whose first grasp was another block.
      vqa: rate of right answers per kind of question.
      open_loop: error per action dimension in robot units, and token accuracy.
      outcomes: the filmed episodes.
    """

    success: Mapping[str, Rate]
    wrong_block: Mapping[str, Rate]
    vqa: Mapping[str, Rate]
    open_loop: Mapping[str, float]
    outcomes: Sequence[Outcome]

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers as JSON values."""
        rates = {
            name: {key: rate.to_json() for key, rate in getattr(self, name).items()}
            for name in ("success", "wrong_block", "vqa")
        }
        return rates | {"open_loop": {k: round(v, 5) for k, v in self.open_loop.items()}}


def episodes(config: RunConfig, split: Split, count: int) -> list[Episode]:
    """Returns the fixed episodes of a split, the tasks taking turns; the same in every run."""
    tasks = world.tasks_of(split, config.tabletop.demonstrations.tasks)
    return [
        Episode(
            seed=_FIRST_SEED + number,
            options={
                "split": split,
                "task": tasks[number % len(tasks)],
                "blocks": config.evaluation.blocks,
            },
        )
        for number in range(count)
    ]


def play(
    config: RunConfig,
    policy: Policy,
    split: Split,
    count: int,
    *,
    film: int = 0,
    on_progress: OnProgress = lambda name, done, total: None,
) -> list[Outcome]:
    """Plays the first `count` episodes of a split in the tabletop."""
    env_config = TabletopConfig(image_size=config.tabletop.image_size)
    return closed_loop.play(
        policy,
        lambda: TabletopEnv(env_config, render_mode="rgb_array" if film else None),
        episodes(config, split, count),
        slots=config.evaluation.slots,
        film=film,
        on_progress=lambda done, total: on_progress(f"evaluate {split}", done, total),
    )


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
    for name, questions in web.items():
        if policy is None:
            break
        answers = vqa.answer_all(policy, questions, config.evaluation.questions)
        found = vqa.rates(answers, locations=config.tokenizer.locations)
        rates |= {f"{name}/{k}" if len(web) > 1 else k: rate for k, rate in found.items()}
    return rates


def evaluate(
    config: RunConfig, policies: Mapping[str, Policy], data: Data, on_progress: OnProgress
) -> Results:
    """Measures everything: closed loop on all splits, questions, held-out demonstrations."""
    success: dict[str, Rate] = {}
    wrong: dict[str, Rate] = {}
    filmed: list[Outcome] = []
    policy = tabletop_policy(policies)
    for split in config.evaluation.splits:
        if policy is None:
            break
        film = config.evaluation.film if split == "seen" else 0
        outcomes = play(
            config,
            policy,
            split,
            config.evaluation.episodes,
            film=film,
            on_progress=on_progress,
        )
        success[split] = Rate.of(outcome.success for outcome in outcomes)
        wrong[split] = Rate.of(outcome.info["wrong_block"] for outcome in outcomes)
        if split == "seen":
            filmed = outcomes[:film]
            success |= _by_task(split, outcomes)
    return Results(
        success=success,
        wrong_block=wrong,
        vqa=ask(config, policies, data.web_held_out),
        open_loop=_errors(config, policies, data.robots_held_out),
        outcomes=filmed,
    )


def _errors(
    config: RunConfig, policies: Mapping[str, Policy], held_out: Mapping[str, Episodes]
) -> dict[str, float]:
    """Errors on held-out demonstrations; `ROBOT/...` where there are several robots."""
    errors: dict[str, float] = {}
    for name, episodes in held_out.items():
        if name not in policies:
            continue
        count = min(config.evaluation.frames, len(episodes))
        chosen = [episodes.example(i * len(episodes) // count) for i in range(count)]
        found = open_loop.action_error(policies[name], chosen)
        errors |= {f"{name}/{k}" if len(held_out) > 1 else k: v for k, v in found.items()}
    return errors


def _by_task(split: str, outcomes: Sequence[Outcome]) -> dict[str, Rate]:
    tasks = dict.fromkeys(outcome.info["task"] for outcome in outcomes)
    return {
        f"{split}/{task}": Rate.of(o.success for o in outcomes if o.info["task"] == task)
        for task in tasks
    }
