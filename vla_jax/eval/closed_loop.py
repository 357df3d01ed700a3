"""The policy drives the environment: many episodes at once, each with its own fixed seed.

Environments share one batch. When an episode ends, the next one takes its slot, so the batch (and
with it the compiled program) keeps its size; an episode's course does not depend on its slot.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import gymnasium
import numpy as np

from vla_jax.core.arrays import Float, UInt8
from vla_jax.core.episode import Episode
from vla_jax.core.errors import UserError
from vla_jax.eval.apart import Apart


class Observer(Protocol):
    """What an actor looks at; `policy.observation.Observer` is one."""

    views: tuple[str, ...]
    history: int

    def look(self, images: Mapping[str, Any], state: Any) -> Any:
        """Prepares the last images of each view, oldest first, and the state in robot units."""
        ...


class Actor(Protocol):
    """What decides; `policy.policy.Policy` is one."""

    @property
    def observer(self) -> Observer:
        """What it looks at."""
        ...

    def act_batch(
        self, observations: Sequence[Any], instructions: Sequence[str]
    ) -> tuple[Float[np.ndarray, "b n a"], Any]:
        """Returns actions in robot units, n steps each, and their tokens."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an episode went.

    Attributes:
      episode: which one.
      start: a digest of its first observation: whose starts are equal began alike.
      instruction: what was asked.
      success: the goal was reached, and the policy said so where it can.
      steps: actions taken.
      info: the environment's last info.
      images: rendered pictures, uint8 [y, x, 3] each, if it was filmed.
    """

    episode: Episode
    start: str
    instruction: str
    success: bool
    steps: int
    info: Mapping[str, Any]
    images: Sequence[UInt8[np.ndarray, "y x 3"]] = ()


class _Slot:
    """One environment and the episode it is in."""

    def __init__(self, env: gymnasium.Env, views: Mapping[str, str], history: int):
        self.env, self._views, self._history = env, views, history
        self.number = -1
        self.observation: dict[str, Any] = {}
        self.seen: dict[str, collections.deque[np.ndarray]] = {}
        self.start, self.steps = "", 0
        self.planned: collections.deque[np.ndarray] = collections.deque()
        self.images: list[np.ndarray] = []

    def begin(self, number: int, episode: Episode, *, film: bool) -> None:
        self.number, self.steps = number, 0
        self.planned.clear()
        self.observation, _ = self.env.reset(seed=episode.seed, options=dict(episode.options))
        self.start = digest(self.observation)
        self.seen = {view: collections.deque(maxlen=self._history) for view in self._views}
        self._look()
        self.images = [self._picture()] if film else []

    @property
    def state(self) -> np.ndarray | None:
        """Proprioception, where the environment tells it."""
        return self.observation.get("state")

    def _look(self) -> None:
        for view, name in self._views.items():
            self.seen[view].append(self.observation[name])

    def _picture(self) -> np.ndarray:
        picture = self.env.render()
        return np.asarray(picture)

    def step(self, action: np.ndarray) -> tuple[bool, dict[str, Any]]:
        space = self.env.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        # Bin centres may lie half a bin outside the box.
        command = np.clip(action, space.low, space.high).astype(np.float32)
        self.observation, _, terminated, truncated, info = self.env.step(command)
        self._look()
        self.steps += 1
        if self.images:
            self.images.append(self._picture())
        return terminated or truncated, info

    def outcome(self, episode: Episode, info: Mapping[str, Any]) -> Outcome:
        return Outcome(
            episode=episode,
            start=self.start,
            instruction=str(self.observation["instruction"]),
            success=bool(info["success"]),
            steps=self.steps,
            info=info,
            images=tuple(self.images),
        )


def play(
    policy: Actor,
    make_env: Callable[[], gymnasium.Env],
    episodes: Sequence[Episode],
    *,
    views: Mapping[str, str] | None = None,
    slots: int = 50,
    execute: int = 1,
    film: int = 0,
    apart: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Outcome]:
    """Plays episodes to their end.

    Args:
      policy: decides.
      make_env: builds an environment whose observation has the views, `instruction` and, for a
        policy that wants it, `state`, and whose action is the policy's, in robot units.
      episodes: what to play.
      views: the policy's name of a view -> the observation's; its only view is `image` by default.
      slots: environments stepped together.
      execute: actions of a decision that are executed before the next one is asked for.
      film: how many of the first episodes to render, every step.
      apart: whether each environment gets a process of its own; `make_env` must pickle then.
      on_progress: told how many episodes are done, of how many.

    Returns:
      One outcome per episode, in the given order.

    Raises:
      UserError: a decision has fewer actions than are to be executed.
    """
    names = views or {policy.observer.views[0]: "image"}
    named = {view: names[view] for view in policy.observer.views}
    count = min(slots, len(episodes))
    make = functools.partial(Apart, make_env) if apart else make_env
    waiting, outcomes = collections.deque(enumerate(episodes)), dict[int, Outcome]()
    with contextlib.ExitStack() as stack:
        # The answers of processes are waited for together.
        run = stack.enter_context(ThreadPoolExecutor(count)).map if apart and count else map

        def new_slot(_: int) -> _Slot:
            env = make()
            stack.callback(env.close)
            return _Slot(env, named, policy.observer.history)

        def begin(slots: Sequence[_Slot]) -> None:
            """Gives slots the next episodes, as far as there are any."""
            begun = [(slot, *waiting.popleft()) for slot in slots if waiting]
            list(run(lambda job: job[0].begin(*job[1:], film=job[1] < film), begun))

        active = list(run(new_slot, range(count)))
        begin(active)
        while len(outcomes) < len(episodes):
            moving = [slot.number not in outcomes for slot in active]
            ended = _step(policy, active, moving, execute, run)
            for slot, info in ended:
                outcomes[slot.number] = slot.outcome(episodes[slot.number], info)
                on_progress(len(outcomes), len(episodes))
            begin([slot for slot, _ in ended])
    return [outcomes[number] for number in range(len(episodes))]


def _step(
    policy: Actor,
    slots: Sequence[_Slot],
    moving: Sequence[bool],
    execute: int,
    run: Callable[..., Iterable[Any]],
) -> list[tuple[_Slot, dict[str, Any]]]:
    """Decides where nothing is planned any more, and moves the slots that are in an episode.

    Returns:
      The slots whose episode ended, with its last info.
    """
    active = [slot for slot, is_moving in zip(slots, moving, strict=True) if is_moving]
    if not all(slot.planned for slot in active):
        _decide(policy, slots, execute)
    moves = [(slot, slot.planned.popleft()) for slot in active]
    ends = run(lambda move: move[0].step(move[1]), moves)
    return [(slot, info) for (slot, _), (is_over, info) in zip(moves, ends, strict=True) if is_over]


def _decide(policy: Actor, slots: Sequence[_Slot], execute: int) -> None:
    """Plans for the slots that have nothing planned; the others keep the size of the batch."""
    observations = [policy.observer.look(slot.seen, slot.state) for slot in slots]
    instructions = [slot.observation["instruction"] for slot in slots]
    chunks, _ = policy.act_batch(observations, instructions)
    if execute > chunks.shape[1]:
        raise UserError(
            "actions to execute per decision",
            expected=f"at most {chunks.shape[1]}, as many as the policy decides at once",
            found=execute,
        )
    for slot, chunk in zip(slots, chunks, strict=True):
        if not slot.planned:
            slot.planned.extend(chunk[:execute])


def digest(observation: Mapping[str, Any]) -> str:
    """Returns 16 hexadecimal digits of the SHA-256 of names, texts, numbers and pixels."""
    found = hashlib.sha256()
    for name in sorted(observation):
        value = observation[name]
        array = np.asarray(value) if not isinstance(value, str) else None
        head = value if array is None else f"{array.dtype} {array.shape}"
        found.update(f"{name}\0{head}\0".encode())
        if array is not None:
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]
