"""The conventions that robot datasets share, over whole columns: gripper, reached pose, rotations.

Everywhere in this package a standard gripper is absolute: 1 open, 0 closed.

Source of the gripper rules: Octo's data preparation (octo/data/utils/data_utils.py).
"""

import numpy as np
from jaxtyping import Bool, Float

from vla_jax.actions.spec import ActionSpec
from vla_jax.data.robots.robot import Columns

# Not through core/arrays: the processes that run environments import this and need no JAX.

GRIPPER = "1 open, 0 closed, absolute"
POSE_NAMES = ("x (m)", "y (m)", "z (m)", "roll (rad)", "pitch (rad)", "yaw (rad)")
QUATERNION_NAMES = ("x (m)", "y (m)", "z (m)", "qx", "qy", "qz", "qw")


def joint_names(count: int) -> tuple[str, ...]:
    """Names `count` joint angles, the base's first."""
    return tuple(f"joint {k} (rad)" for k in range(1, count + 1))


def end_effector_spec(
    *,
    frame: str,
    control_hz: float,
    max_step: float = 1.0,
    max_turn: float = np.pi,
    gripper: str = GRIPPER,
    units: tuple[str, str] = ("metres per step", "radians per step"),
) -> ActionSpec:
    """Describes the standard seven dimensions of a single arm: dx dy dz droll dpitch dyaw gripper.

    Args:
      frame: the coordinate frame of translations and rotations, and how a rotation is written.
      control_hz: commands per second.
      max_step: largest translation per axis, in its unit.
      max_turn: largest rotation per axis, in its unit.
      gripper: the convention after standardisation, with what the dataset says otherwise.
      units: of translation and of rotation, where they are not metres and radians.
    """
    move, turn = units
    return ActionSpec(
        names=("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"),
        units=(*(move,) * 3, *(turn,) * 3, "0..1"),
        low=(*(-max_step,) * 3, *(-max_turn,) * 3, 0.0),
        high=(*(max_step,) * 3, *(max_turn,) * 3, 1.0),
        discrete=(False,) * 7,
        frame=frame,
        gripper=gripper,
        control_hz=control_hz,
    )


def end_effector_pose_spec(
    *, frame: str, control_hz: float, reach: float = 2.0, gripper: str = GRIPPER
) -> ActionSpec:
    """Describes a single arm that is told where to be: x y z roll pitch yaw gripper.

    Args:
      frame: the coordinate frame of the pose, and how a rotation is written.
      control_hz: commands per second.
      reach: largest coordinate, in metres.
      gripper: as in `end_effector_spec`.
    """
    return ActionSpec(
        names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
        units=(*("metres, absolute",) * 3, *("radians, absolute",) * 3, "0..1"),
        low=(*(-reach,) * 3, *(-np.pi,) * 3, 0.0),
        high=(*(reach,) * 3, *(np.pi,) * 3, 1.0),
        discrete=(False,) * 7,
        frame=frame,
        gripper=gripper,
        control_hz=control_hz,
    )


def join(*parts: np.ndarray) -> Float[np.ndarray, "i a"]:
    """Joins parts of shape [i] or [i, n] to float32 [i, a]."""
    columns = [part[:, None] if part.ndim == 1 else part for part in parts]
    return np.concatenate(columns, axis=1).astype(np.float32)


def zeros(columns: Columns, count: int) -> Float[np.ndarray, "i n"]:
    """Zeros [i, count], for dimensions that the robot does not move."""
    return np.zeros((len(columns.episode), count), np.float32)


def open_fraction(closed: np.ndarray) -> np.ndarray:
    """Turns "how closed" (0 open, 1 closed; beyond is cut off) into the standard gripper."""
    return 1 - np.clip(closed, 0, 1)


def closing_last(action: Float[np.ndarray, "i 7"]) -> Float[np.ndarray, "i 7"]:
    """Makes seven dimensions standard whose last says how closed the gripper is to be."""
    return join(action[:, :6], open_fraction(action[:, 6]))


def open_from_commands(closing: Float[np.ndarray, " i"], columns: Columns) -> np.ndarray:
    """Turns relative commands (+ closes, - opens, around 0 stays) into the standard gripper.

    A command holds until the next. Before the first one the gripper is taken to be in the opposite
    state, so that no command is redundant; an episode without commands is open throughout.

    Args:
      closing: [i], commands; at most 0.1 in size counts as none.
      columns: for the episodes.

    Returns:
      float32 [i], 0 or 1.
    """
    commanded = np.abs(closing) > 0.1
    opens = closing < 0
    latest = _latest(commanded, columns)
    upcoming = _upcoming(commanded, columns)
    before = np.where(upcoming >= 0, ~opens[upcoming], True)
    return np.where(latest >= 0, opens[latest], before).astype(np.float32)


def binarize(gripper: Float[np.ndarray, " i"], columns: Columns) -> np.ndarray:
    """Makes an absolute gripper 0 or 1: what lies between takes the state that is reached next.

    Where an episode ends in between, those steps take its last value as it is.

    Args:
      gripper: [i], about 1 open, about 0 closed; above 0.95 and below 0.05 count as reached.
      columns: for the episodes.

    Returns:
      float32 [i].
    """
    reached = (gripper > 0.95) | (gripper < 0.05)
    upcoming = _upcoming(reached, columns)
    final = _upcoming(columns.last, columns)
    decided = np.where(upcoming >= 0, gripper[upcoming] > 0.5, gripper[final])
    return decided.astype(np.float32)


def reached_delta(pose: Float[np.ndarray, "i 6"], columns: Columns) -> np.ndarray:
    """Turns poses (xyz, then Euler angles) into the motion to the next pose, float32 [i, 6].

    Angles take the short way around. The last step of an episode has no next one: 0, and an
    adapter that uses this drops it (see `Robot.keep`).
    """
    delta = columns.next(pose) - pose
    delta[:, 3:] = wrap(delta[:, 3:])
    return delta.astype(np.float32)


def wrap(angle: np.ndarray) -> np.ndarray:
    """Returns the same angles in -pi..pi."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def euler_from_quaternion(xyzw: Float[np.ndarray, "i 4"]) -> Float[np.ndarray, "i 3"]:
    """Turns quaternions (x, y, z, w, of any length but 0) into roll, pitch, yaw in radians.

    The rotation is yaw about z, then pitch about y, then roll about x, each about the turned axis.
    At a pitch of a quarter turn, where roll and yaw are one motion, roll carries all of it.
    """
    x, y, z, w = (xyzw / np.linalg.norm(xyzw, axis=1, keepdims=True)).T
    roll = np.arctan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = np.arcsin(np.clip(2 * (w * y - z * x), -1, 1))
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return np.stack([roll, pitch, yaw], axis=1)


def _latest(marked: Bool[np.ndarray, " i"], columns: Columns) -> np.ndarray:
    """Finds the nearest marked step of the episode at or before each; -1 where there is none."""
    steps = np.arange(len(marked))
    start = np.maximum.accumulate(np.where(columns.first, steps, 0))
    latest = np.maximum.accumulate(np.where(marked, steps, -1))
    return np.where(latest >= start, latest, -1)


def _upcoming(marked: Bool[np.ndarray, " i"], columns: Columns) -> np.ndarray:
    """Finds the nearest marked step of the episode at or after each; -1 where there is none."""
    count = len(marked)
    mirrored = Columns(arrays={}, episode=columns.episode[-1:] - columns.episode[::-1])
    found = _latest(marked[::-1], mirrored)[::-1]
    return np.where(found >= 0, count - 1 - found, -1)
