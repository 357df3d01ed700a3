"""The fixed episodes of an environment, played by a policy: outcomes, films, fingerprint."""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vla_jax.core.episode import Episode
from vla_jax.core.errors import UserError
from vla_jax.envs import table
from vla_jax.envs.environment import Environment
from vla_jax.eval import closed_loop
from vla_jax.eval.closed_loop import Actor, Outcome
from vla_jax.eval.rate import Rate
from vla_jax.eval.record import Record
from vla_jax.experiment import sources
from vla_jax.experiment.config import RunConfig
from vla_jax.runtime import progress

OnProgress = Callable[[str, int, int], None]
Rates = dict[str, Rate]


def silent(name: str, done: int, total: int) -> None:
    """Tells nobody."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trials:
    """Which episodes of which environment.

    Attributes:
      environment: a row of the table.
      episodes: split -> its episodes.
      image_size: see `Environment.make`.
      slots: environments stepped together.
      execute: actions of a decision that are executed before the next one.
    """

    environment: Environment
    episodes: Mapping[str, Sequence[Episode]]
    image_size: int | None = None
    slots: int = 50
    execute: int = 1

    @classmethod
    def of_run(cls, config: RunConfig, count: int, splits: Sequence[str] = ()) -> "Trials":
        """Returns the tabletop's episodes as a run's configuration asks for them."""
        environment = table.find(sources.TABLETOP)
        tasks, blocks = config.tabletop.demonstrations.tasks, config.evaluation.blocks
        return cls(
            environment=environment,
            episodes={
                split: [
                    dataclasses.replace(episode, options={**episode.options, "blocks": blocks})
                    for episode in environment.episodes(split, count, tasks)
                ]
                for split in splits or config.evaluation.splits
            },
            image_size=config.tabletop.image_size,
            slots=config.evaluation.slots,
            execute=config.evaluation.execute,
        )

    def play(self, policy: Actor, on_progress: OnProgress = silent) -> dict[str, list[Outcome]]:
        """Plays all episodes, split by split.

        Raises:
          UserError: the environment lacks a view that the policy looks at, or a package is missing.
        """
        return {
            split: self._play(policy, split, episodes, on_progress)
            for split, episodes in self.episodes.items()
        }

    def film(
        self, policy: Actor, outcomes: Mapping[str, Sequence[Outcome]], count: int
    ) -> list[tuple[str, Outcome]]:
        """Plays some episodes again before a camera: half of them failures, if there are so many.

        Args:
          policy: the same.
          outcomes: what `play` returned.
          count: how many episodes at most; the splits take turns.

        Returns:
          Split and outcome, with images; successes first.
        """
        done, failed = (_in_turns(outcomes, success=success) for success in (True, False))
        failures = failed[: max(count // 2, count - len(done))]
        chosen = done[: count - len(failures)] + failures
        make = functools.partial(self.environment.make, image_size=self.image_size, film=True)
        filmed = closed_loop.play(
            policy,
            make,
            [outcome.episode for _, outcome in chosen],
            views=self.environment.views,
            slots=self.slots,
            execute=self.execute,
            film=len(chosen),
            apart=self.environment.apart,
        )
        for (_, before), now in zip(chosen, filmed, strict=True):
            if (before.start, before.success, before.steps) != (now.start, now.success, now.steps):
                progress.note(
                    f"{self.environment.name}: the episode {dict(now.episode.options)}, seed"
                    f" {now.episode.seed}, went differently the second time: environment or policy"
                    " is not deterministic here"
                )
        return [(split, now) for (split, _), now in zip(chosen, filmed, strict=True)]

    def fingerprint(self, records: Sequence[Record]) -> dict[str, Any]:
        """Says in which environment numbers were taken.

        Args:
          records: the episodes played.

        Returns:
          Name, versions, settings and `digest`, 16 hexadecimal digits of the SHA-256 of all this
          and of the first observation of every episode: two results with the same digest were taken
          on the same episodes of the same environment.
        """
        known = {
            "name": self.environment.name,
            "versions": self.environment.versions(),
            "image_size": self.image_size,
            "max_steps": self.environment.max_steps,
        }
        return known | {"digest": digest(known, records)}

    def _play(
        self, policy: Actor, split: str, episodes: Sequence[Episode], on_progress: OnProgress
    ) -> list[Outcome]:
        missing = set(policy.observer.views) - set(self.environment.views)
        if missing:
            raise UserError(
                f"environment {self.environment.name}: no view {', '.join(sorted(missing))}",
                expected=f"a policy that looks at some of {', '.join(self.environment.views)}",
                found=", ".join(policy.observer.views),
            )
        return closed_loop.play(
            policy,
            functools.partial(self.environment.make, image_size=self.image_size),
            episodes,
            views=self.environment.views,
            slots=self.slots,
            execute=self.execute,
            apart=self.environment.apart,
            on_progress=lambda done, total: on_progress(f"evaluate {split}", done, total),
        )


def records(outcomes: Mapping[str, Sequence[Outcome]]) -> list[Record]:
    """Returns what is kept of the episodes."""
    return [Record.of(split, outcome) for split, found in outcomes.items() for outcome in found]


def digest(known: Mapping[str, Any], records: Sequence[Record]) -> str:
    """Returns the `digest` of a fingerprint.

    Args:
      known: the fingerprint's other fields.
      records: the episodes played.
    """
    episodes = [(record.key, record.start) for record in records]
    text = json.dumps([dict(known), episodes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def success(records: Sequence[Record]) -> Rates:
    """Returns the rate of success per split, and `SPLIT/TASK` where it has several tasks."""
    rates = {}
    for split in dict.fromkeys(record.split for record in records):
        found = [record for record in records if record.split == split]
        rates[split] = Rate.of(record.success for record in found)
        tasks: dict[str, list[bool]] = {}  # by name: a file may hold anything
        for record in found:
            tasks.setdefault(str(record.options.get("task")), []).append(record.success)
        for task, successes in tasks.items() if len(tasks) > 1 else ():
            rates[f"{split}/{task}"] = Rate.of(successes)
    return rates


def wrong_block(records: Sequence[Record]) -> Rates:
    """Returns, where the environment tells, the rate of first grasps of another block per split."""
    told = [record for record in records if "wrong_block" in record.info]
    return {
        split: Rate.of(bool(record.info["wrong_block"]) for record in told if record.split == split)
        for split in dict.fromkeys(record.split for record in told)
    }


def _in_turns(
    outcomes: Mapping[str, Sequence[Outcome]], *, success: bool
) -> list[tuple[str, Outcome]]:
    """Returns the successes, or the failures, with their splits, which take turns."""
    columns = [
        [(split, outcome) for outcome in found if outcome.success == success]
        for split, found in outcomes.items()
    ]
    rows = itertools.zip_longest(*columns)
    return [pair for row in rows for pair in row if pair is not None]
