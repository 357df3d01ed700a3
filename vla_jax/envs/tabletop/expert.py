"""The scripted expert: reach, close, carry, open, terminate; and the noise of its demonstrations.

It reads the scene, not the image. Motion saturates per axis and is quantised to nine speeds, so
that the same few commands occur again and again; a policy learns those from few episodes.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from vla_jax.core.fields import Checked, Share
from vla_jax.data.robots.tabletop import MAX_STEP, TABLETOP
from vla_jax.envs.tabletop import world
from vla_jax.envs.tabletop.scene import REFERENCE, TARGET, Scene

if TYPE_CHECKING:
    import gymnasium

    from vla_jax.envs.tabletop.env import TabletopEnv

LEVELS = 4  # speeds per direction: 9 per axis, -1, -3/4 ... 1 times the largest step
CLOSE_DISTANCE = 0.06 * world.TABLE_SIZE  # the fingers close this near to a block's centre
OPEN_DISTANCE = 0.045 * world.TABLE_SIZE  # and open this near to where it should lie
NEAR_OPEN_DISTANCE = 0.28 * world.TABLE_SIZE  # or, for near, this close to the reference
NEAR_GOAL_DISTANCE = 0.22 * world.TABLE_SIZE


def expert_action(env: "TabletopEnv | gymnasium.Env[Any, Any]") -> np.ndarray:
    """The expert's command for the environment's current scene.

    Args:
      env: a `TabletopEnv`, wrapped or not.

    Returns:
      Float32 [8] in the units of `TABLETOP.spec`.
    """
    return scene_action(cast("TabletopEnv", env.unwrapped).scene)


def scene_action(scene: Scene) -> np.ndarray:
    """The expert's command for a scene; after a wrong or an empty grasp it opens and tries again.

    Args:
      scene: the scene to act in.

    Returns:
      Float32 [8] in the units of `TABLETOP.spec`.
    """
    wanted = _wanted(scene)
    if scene.is_goal():
        return _command(terminate=True, closed=scene.held >= 0)
    if scene.held == wanted:
        return _carry(scene)
    if scene.closed:  # a wrong block, or nothing
        return _command()
    return _reach(scene, wanted)


def plan(scene: Scene) -> str:
    """What the expert is about to do, in a few words: the present stage of the task.

    Blocks go by their plain names, as in the split `seen`, of which demonstrations are.

    Args:
      scene: the scene to act in.

    Returns:
      Such as `move red cube left`, and after that `pick blue ball`.
    """
    target, *others = (block.name for block in scene.blocks)
    reference = others[0] if others else ""
    match scene.task:
        case "pick":
            return f"pick {target}"
        case "two_stage" if _wanted(scene) == REFERENCE:
            return f"pick {reference}"
        case "side" | "two_stage":
            return f"move {target} {scene.direction}"
        case "near":
            return f"move {target} near {reference}"
        case "stack":
            return f"stack {target} on {reference}"
    raise AssertionError(scene.task)


def _wanted(scene: Scene) -> int:
    """The block to hold next."""
    return REFERENCE if scene.task == "two_stage" and scene.is_at_side() else TARGET


def _reach(scene: Scene, wanted: int) -> np.ndarray:
    distances = [math.dist(scene.pose[:2], position) for position in scene.positions]
    action = _move(scene, scene.positions[wanted])
    is_nearest = min(distances) == distances[wanted]
    has_arrived = not action[1:3].any()
    if distances[wanted] < CLOSE_DISTANCE and (is_nearest or has_arrived):
        return _command(closed=True)
    return action


def _carry(scene: Scene) -> np.ndarray:
    goal = _goal(scene)
    if math.dist(scene.pose[:2], goal) < OPEN_DISTANCE:
        return _command()
    if scene.task == "near" and scene.distance() < NEAR_OPEN_DISTANCE:
        return _command()
    return _move(scene, goal, closed=True)


def _goal(scene: Scene) -> np.ndarray:
    """Where to release the target: float64 [2], metres, table frame."""
    position = scene.positions[TARGET]
    if scene.task == "stack":
        return scene.positions[REFERENCE]
    if scene.task == "near":
        away = position - scene.positions[REFERENCE]
        away /= max(float(np.linalg.norm(away)), 1e-6)
        return np.clip(scene.positions[REFERENCE] + NEAR_GOAL_DISTANCE * away, *world.BLOCK_LIMITS)
    near_edge, far_edge = world.SIDE_GOAL, world.TABLE_SIZE - world.SIDE_GOAL
    x, y = position
    goals = {
        "left": (near_edge, y),
        "right": (far_edge, y),
        "top": (x, near_edge),
        "bottom": (x, far_edge),
    }
    return np.array(goals[scene.direction])


def _move(scene: Scene, target: np.ndarray, *, closed: bool = False) -> np.ndarray:
    speed = np.clip((target - scene.pose[:2]) / MAX_STEP, -1, 1)
    return _command(motion=np.round(speed * LEVELS) / LEVELS * MAX_STEP, closed=closed)


def _command(
    *,
    motion: np.ndarray | tuple[float, float] = (0, 0),
    closed: bool = False,
    terminate: bool = False,
) -> np.ndarray:
    return np.array([terminate, *motion, 0, 0, 0, 0, closed], np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseConfig(Checked):
    """How far the executed action strays from the expert's; the stored label stays clean.

    Demonstrations then show how to recover.

    Source: Laskey et al. 2017, DART: Noise Injection for Robust Imitation Learning.

    Attributes:
      motion: standard deviation added to dx and dy, as a fraction of the largest step.
      wrong_grip: probability that a step inverts the gripper command.
      random_move: probability that a step moves uniformly at random.
    """

    motion: Share = 0.3
    wrong_grip: Share = 0.05
    random_move: Share = 0.05


def perturb(action: np.ndarray, rng: np.random.Generator, noise: NoiseConfig) -> np.ndarray:
    """The action that is executed in place of the expert's.

    A terminating action keeps its gripper: nothing could be recovered after it.

    Args:
      action: float32 [8], the expert's.
      rng: source of randomness.
      noise: how much.

    Returns:
      Float32 [8] within the bounds of `TABLETOP.spec`.
    """
    executed = action.copy()
    executed[1:3] += rng.normal(0, noise.motion * MAX_STEP, 2) if noise.motion else 0
    if rng.random() < noise.wrong_grip and action[0] < 0.5:
        executed[7] = 1 - executed[7]
    if rng.random() < noise.random_move:
        executed[1:3] = rng.uniform(-MAX_STEP, MAX_STEP, 2)
    return np.clip(executed, TABLETOP.spec.low, TABLETOP.spec.high).astype(np.float32)
