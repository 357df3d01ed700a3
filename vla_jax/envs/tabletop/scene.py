"""One episode's state and how it moves: sample, step, ask whether the goal holds. No rendering.

The physics is kinematic: fingers that go from open to closed within the grasp radius of a block's
centre hold it, a held block moves with the gripper, opening releases it. Height and rotations are
integrated and clipped, and no task needs them.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.envs.tabletop import world
from vla_jax.envs.tabletop.world import Block, Split, Task

TARGET, REFERENCE = 0, 1  # indices of the block that is moved and of the block it is moved to

POSE_LOW = np.array(
    [world.GRIPPER_LIMITS[0]] * 2 + [world.HEIGHT_LIMITS[0]] + [-math.pi] * 3
)  # metres, radians
POSE_HIGH = np.array([world.GRIPPER_LIMITS[1]] * 2 + [world.HEIGHT_LIMITS[1]] + [math.pi] * 3)


@dataclasses.dataclass
class Scene:
    """Everything that an episode is at one moment.

    Attributes:
      split: which words and blocks the episode uses.
      task: what is asked.
      direction: the named side; used by the tasks side and two_stage.
      instruction: the sentence.
      blocks: the target first, the reference (if the task has one) second.
      positions: float64 [blocks, 2], block centres x, y in metres, table frame.
      pose: float64 [6], gripper x, y, z in metres, roll, pitch, yaw in radians, table frame.
      closed: True when the fingers are closed.
      held: index of the held block, or -1.
      grasped: index of the first block that was ever held, or -1.
      top: index of the block that was held last and is drawn over the others, or -1.
      steps: steps taken.
    """

    split: Split
    task: Task
    direction: str
    instruction: str
    blocks: tuple[Block, ...]
    positions: np.ndarray
    pose: np.ndarray
    closed: bool = False
    held: int = -1
    grasped: int = -1
    top: int = -1
    steps: int = 0

    @property
    def state(self) -> np.ndarray:
        """Float32 [7]: x, y, z (metres), roll, pitch, yaw (radians), gripper (0 open, 1 closed)."""
        return np.append(self.pose, float(self.closed)).astype(np.float32)

    def step(self, action: np.ndarray) -> None:
        """Moves the gripper, then closes or opens it.

        Args:
          action: float [8] in the units of `TABLETOP.spec`; values out of bounds are clipped.
        """
        self.steps += 1
        action = np.clip(action, TABLETOP.spec.low, TABLETOP.spec.high)
        self.pose = np.clip(self.pose + action[1:7], POSE_LOW, POSE_HIGH)
        if self.held >= 0:
            self.positions[self.held] = np.clip(self.pose[:2], *world.BLOCK_LIMITS)
        close = bool(action[7] > 0.5)
        if close and not self.closed:
            self._grasp()
        if not close:
            self.held = -1
        self.closed = close

    def _grasp(self) -> None:
        distances = [math.dist(self.pose[:2], position) for position in self.positions]
        nearest = int(np.argmin(distances))
        if distances[nearest] < world.GRASP_RADIUS:
            self.held = self.top = nearest
            self.positions[nearest] = np.clip(self.pose[:2], *world.BLOCK_LIMITS)
            if self.grasped < 0:
                self.grasped = nearest

    def is_out_of_time(self, max_steps: int) -> bool:
        """True when the episode has used `max_steps` per stage of its task."""
        return self.steps >= max_steps * world.STAGES[self.task]

    def distance(self) -> float:
        """The distance of target and reference centres in metres."""
        return math.dist(self.positions[TARGET], self.positions[REFERENCE])

    def is_at_side(self) -> bool:
        """True when the target lies, released, in the named edge zone."""
        if self.held == TARGET:
            return False
        x, y = self.positions[TARGET]
        margins = {
            "left": x,
            "right": world.TABLE_SIZE - x,
            "top": y,
            "bottom": world.TABLE_SIZE - y,
        }
        return bool(margins[self.direction] < world.EDGE_ZONE)

    def is_goal(self) -> bool:
        """True when the world is as the instruction asks, whether or not the policy stopped."""
        match self.task:
            case "pick":
                return self.held == TARGET
            case "side":
                return self.is_at_side()
            case "near":
                return self.held != TARGET and self.distance() < world.NEAR_DISTANCE
            case "stack":
                return (
                    self.held not in (TARGET, REFERENCE)
                    and self.top == TARGET
                    and self.distance() < world.STACK_DISTANCE
                )
            case "two_stage":
                return self.is_at_side() and self.held == REFERENCE


def sample(
    rng: np.random.Generator,
    *,
    split: Split = "seen",
    tasks: Sequence[Task] = world.DEFAULT_TASKS,
    blocks: tuple[int, ...] = (1, 3),
) -> Scene:
    """Draws a new episode whose goal does not hold yet.

    The number of blocks is drawn first, then a task that this number allows.

    Args:
      rng: the only source of randomness.
      split: see `world.SPLITS`.
      tasks: the tasks to choose from, equally likely.
      blocks: fewest and most blocks, both included; the fewest is 2 where every task needs two.

    Returns:
      A scene with open gripper, at step 0.

    Raises:
      UserError: the options have no scene (see `world.check_scene_options`).
    """
    world.check_scene_options(split, tuple(tasks), blocks)
    tasks = world.tasks_of(split, tuple(tasks))
    needs_two = split == "relation" or all(task in world.TWO_BLOCK_TASKS for task in tasks)
    fewest = 2 if needs_two else 1
    count = int(rng.integers(max(fewest, blocks[0]), blocks[1] + 1))
    possible: list[Task] = [
        task for task in tasks if count > 1 or task not in world.TWO_BLOCK_TASKS
    ]
    task = possible[rng.integers(len(possible))]
    direction = world.DIRECTIONS[rng.integers(len(world.DIRECTIONS))]
    chosen = sample_blocks(rng, count, split=split)
    while True:
        scene = Scene(
            split=split,
            task=task,
            direction=direction,
            instruction="",
            blocks=chosen,
            positions=sample_layout(rng, count),
            pose=np.array([*rng.uniform(*world.GRIPPER_START, 2), world.HEIGHT_START, 0, 0, 0]),
        )
        target = _name_target(rng, scene)
        if target is not None and _is_fair_start(scene):
            scene.instruction = instruct(scene, target)
            return scene


def _name_target(rng: np.random.Generator, scene: Scene) -> str | None:
    """Returns the words that a split uses for the target; None where the layout has none."""
    block = scene.blocks[TARGET]
    match scene.split:
        case "synonym":
            return block.synonym
        case "relation":
            fitting = extremes(scene.positions).get(TARGET, [])
            return f"{fitting[rng.integers(len(fitting))]} object" if fitting else None
        case _:
            return block.name


def extremes(positions: np.ndarray) -> dict[int, list[str]]:
    """Says which blocks lie clearly at the end of an axis.

    Args:
      positions: float64 [blocks, 2], at least two centres, metres, table frame.

    Returns:
      Index of a block -> the words of `world.EXTREMES` that mean it and no other.
    """
    found: dict[int, list[str]] = {}
    for word, (axis, is_low) in world.EXTREMES.items():
        along = positions[:, axis] if is_low else -positions[:, axis]
        first, second = np.argsort(along)[:2]
        if along[second] - along[first] >= world.CLEAR_GAP:
            found.setdefault(int(first), []).append(word)
    return found


def _is_fair_start(scene: Scene) -> bool:
    match scene.task:
        case "near":
            return scene.distance() > world.NEAR_DISTANCE + world.NEAR_START_MARGIN
        case "side" | "two_stage":
            return not scene.is_at_side()
        case _:
            return True


def sample_blocks(rng: np.random.Generator, count: int, *, split: Split) -> tuple[Block, ...]:
    """Draws blocks that differ pairwise in colour and in shape; only the first may be unseen.

    Each draw is made from the blocks that still fit, and a draw that leaves none (four blocks can
    leave only a held-out pair) starts again.

    Args:
      rng: source of randomness.
      count: number of blocks, at most `world.MAX_BLOCKS`.
      split: which blocks the target is drawn from.

    Returns:
      The target, then seen blocks.
    """
    while True:
        chosen = [_choose(rng, world.TARGETS[split])]
        while len(chosen) < count:
            fitting = [
                block
                for block in world.SEEN
                if all(block.colour != c.colour and block.shape != c.shape for c in chosen)
            ]
            if not fitting:
                break
            chosen.append(_choose(rng, fitting))
        if len(chosen) == count:
            return tuple(chosen)


def _choose(rng: np.random.Generator, blocks: Sequence[Block]) -> Block:
    return blocks[int(rng.integers(len(blocks)))]


def sample_layout(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws block centres at least `world.MIN_SEPARATION` apart.

    Args:
      rng: source of randomness.
      count: number of blocks, at most `world.MAX_BLOCKS`.

    Returns:
      Float64 [count, 2], x and y in metres, table frame.
    """
    while True:
        positions = rng.uniform(*world.BLOCK_START, (count, 2))
        if all(
            math.dist(positions[i], positions[j]) > world.MIN_SEPARATION
            for i in range(count)
            for j in range(i)
        ):
            return positions


def instruct(scene: Scene, target: str) -> str:
    """Says what the task asks; the split `symbol` names sides by their symbols.

    Args:
      scene: the episode; the reference, where its task has one, goes by its plain name.
      target: the words for the target.

    Returns:
      A sentence in lower case without punctuation.
    """
    reference = scene.blocks[REFERENCE].name if len(scene.blocks) > 1 else ""
    place = world.SYMBOLS[scene.direction] if scene.split == "symbol" else scene.direction
    match scene.task:
        case "pick":
            return f"pick up the {target}"
        case "side":
            return f"move the {target} to the {place}"
        case "near":
            return f"move the {target} near the {reference}"
        case "stack":
            return f"stack the {target} on the {reference}"
        case "two_stage":
            return f"move the {target} to the {place} then pick up the {reference}"
