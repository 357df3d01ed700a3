"""The policy drives the environment: many episodes at once, each with its own fixed seed.

Environments share one batch. When an episode ends, the next one takes its slot, so the batch (and
with it the compiled program) keeps its size; an episode's course does not depend on its slot.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from vla_jax.core.arrays import UInt8
from vla_jax.core.episode import Episode
from vla_jax.policy.policy import Policy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an episode went.

    Attributes:
      episode: which one.
      instruction: what was asked.
      success: the goal was reached and the policy said so by terminating.
      steps: actions taken.
      info: the environment's last info.
      images: rendered pictures, uint8 [y, x, 3] each, if it was filmed.
    """

    episode: Episode
    instruction: str
    success: bool
    steps: int
    info: Mapping[str, Any]
    images: Sequence[UInt8[np.ndarray, "y x 3"]] = ()


class _Slot:
    """One environment and the episode it is in."""

    def __init__(self, env: gymnasium.Env, history: int):
        self.env = env
        self.number = -1
        self.observation: dict[str, Any] = {}
        self.seen: collections.deque[np.ndarray] = collections.deque(maxlen=history)
        self.steps = 0
        self.images: list[np.ndarray] = []

    def start(self, number: int, episode: Episode, *, film: bool) -> None:
        self.number, self.steps = number, 0
        self.observation, _ = self.env.reset(seed=episode.seed, options=dict(episode.options))
        self.seen.clear()
        self.seen.append(self.observation["image"])
        self.images = [self._picture()] if film else []

    @property
    def state(self) -> np.ndarray | None:
        """Proprioception, where the environment tells it."""
        return self.observation.get("state")

    def _picture(self) -> np.ndarray:
        picture = self.env.render()
        return np.asarray(picture)

    def step(self, action: np.ndarray) -> tuple[bool, dict[str, Any]]:
        space = self.env.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        # Bin centres may lie half a bin outside the box.
        command = np.clip(action, space.low, space.high).astype(np.float32)
        self.observation, _, terminated, truncated, info = self.env.step(command)
        self.seen.append(self.observation["image"])
        self.steps += 1
        if self.images:
            self.images.append(self._picture())
        return terminated or truncated, info


def play(
    policy: Policy,
    make_env: Callable[[], gymnasium.Env],
    episodes: Sequence[Episode],
    *,
    slots: int = 50,
    film: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Outcome]:
    """Plays episodes to their end.

    Args:
      policy: decides; its single view is the observation's `image`.
      make_env: builds an environment whose observation has `image`, `instruction` and, for a policy
        that wants it, `state`, and whose action is the policy's, in robot units.
      episodes: what to play.
      slots: environments stepped together.
      film: how many of the first episodes to render, every step.
      on_progress: told how many episodes are done, of how many.

    Returns:
      One outcome per episode, in the given order.
    """
    waiting = list(range(len(episodes)))
    outcomes: dict[int, Outcome] = {}
    active = [_Slot(make_env(), policy.observer.history) for _ in range(min(slots, len(episodes)))]
    for slot in active:
        number = waiting.pop(0)
        slot.start(number, episodes[number], film=number < film)
    view = policy.observer.views[0]
    while len(outcomes) < len(episodes):
        observations = [policy.observer.look({view: slot.seen}, slot.state) for slot in active]
        instructions = [slot.observation["instruction"] for slot in active]
        actions, _ = policy.act_batch(observations, instructions)
        for slot, action in zip(active, actions, strict=True):
            # A slot without a waiting episode repeats its last observation to keep the batch size.
            if slot.number in outcomes:
                continue
            ended, info = slot.step(action[0])
            if not ended:
                continue
            outcomes[slot.number] = Outcome(
                episode=episodes[slot.number],
                instruction=str(slot.observation["instruction"]),
                success=bool(info["success"]),
                steps=slot.steps,
                info=info,
                images=tuple(slot.images),
            )
            on_progress(len(outcomes), len(episodes))
            if waiting:
                number = waiting.pop(0)
                slot.start(number, episodes[number], film=number < film)
    for slot in active:
        slot.env.close()
    return [outcomes[number] for number in range(len(episodes))]
