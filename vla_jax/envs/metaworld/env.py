"""Meta-World as an environment: image and sentence in, metres and gripper effort out.

Sources: Farama-Foundation/Metaworld (metaworld/sawyer_xyz_env.py, docs/evaluation/evaluation.md);
the camera, Seo et al. 2022 (arXiv 2206.14244), as Hugging Face LeRobot's environment has it.
"""

import dataclasses
import functools
import string
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from vla_jax.core import packages
from vla_jax.core.errors import UserError
from vla_jax.data.robots.metaworld import MAX_STEP, ROBOT
from vla_jax.envs import rendering
from vla_jax.envs.metaworld import tasks
from vla_jax.envs.simulator import SimulatorEnv

INSTALL = "Install it: pip install 'vla_jax[metaworld]'"
GOALS = ("train", "test")
_GOAL_SEED = 42  # of the training goals, as LeRobot has it; ML1 draws its test goals with the next
_CAMERA, _CAMERA_POSITION = "corner2", (0.75, 0.075, 0.7)
_HAND_LOW, _HAND_HIGH = (-0.525, 0.348, -0.0525, 0.0), (0.525, 1.025, 0.7, 1.0)  # its own bounds


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaworldConfig:
    """What the environment shows.

    Attributes:
      image_size: side of the observed image in pixels.
    """

    image_size: int = 128

    def __post_init__(self) -> None:
        if not 16 <= self.image_size <= 480:
            raise UserError("metaworld image_size", expected="16..480", found=self.image_size)


class MetaworldEnv(SimulatorEnv["_Simulation"]):
    """One of fifty tasks of a Sawyer arm at a table.

    Observation: `image` uint8 [size, size, 3]; `instruction` text; `state` float32 [4], the
    hand's x, y, z in metres and the gripper's opening, 0..1.
    Action: float32 [4] in the real units of `ROBOT.spec`.
    Reward: 1 on the step that succeeds, which ends the episode, else 0. After 500 steps it is
    truncated.

    Every episode is a simulator of its own, so that none depends on what was played before.

    Args:
      config: what to show.
      render_mode: None or "rgb_array".

    Raises:
      UserError: Meta-World is not installed, or nothing can draw.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(ROBOT.spec.control_hz)}  # noqa: RUF012

    def __init__(self, config: MetaworldConfig | None = None, render_mode: str | None = None):
        self.config = config or MetaworldConfig()
        rendering.choose()
        _load("metaworld")
        size = self.config.image_size
        observations = {
            "image": gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8),
            "instruction": gymnasium.spaces.Text(
                max(map(len, tasks.INSTRUCTIONS.values())),
                charset=string.ascii_lowercase + " ,-",
            ),
            "state": gymnasium.spaces.Box(
                np.array(_HAND_LOW, np.float32), np.array(_HAND_HIGH, np.float32)
            ),
        }
        super().__init__("metaworld", ROBOT.spec, observations, render_mode)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode: with a seed, a pure function of (seed, options).

        Args:
          seed: of what the options leave open.
          options: any of `task`; `goals`, `train` (the benchmarks' own) or `test` (fifty others,
            with which ML1 tests); and `goal`, which of the fifty, 0..49.

        Raises:
          UserError: an unknown option, or a value that is none of its.
        """
        super().reset(seed=seed)
        options = {"goals": GOALS[0]} | (options or {})
        values = {"task": tasks.MT50, "goals": GOALS, "goal": range(tasks.GOALS)}
        task, which, goal = self._choose(options, values)
        self.close()
        self._simulation = _Simulation(task, which, goal, self.config)
        return self._observe(), self._info(success=False)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Executes one command.

        Args:
          action: float32 [4], real units; out of bounds is clipped.

        Returns:
          Observation, reward, terminated (success), truncated (after 500 steps), info.
        """
        success, truncated = self.simulation.step(_to_simulator(action))
        info = self._info(success=success)
        return self._observe(), float(success), success, truncated and not success, info

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What the policy sees: uint8 [size, size, 3], or None without a render mode."""
        return None if self.render_mode is None else self.simulation.draw()

    def expert_action(self) -> np.ndarray:
        """Meta-World's scripted policy for the task: float32 [4], real units, within bounds."""
        return _from_simulator(self.simulation.scripted())

    def recorded(self) -> dict[str, np.ndarray]:
        """What its dataset has of the present state."""
        return {"observation/state": self.simulation.hand}

    def _observe(self) -> dict[str, Any]:
        simulation = self.simulation
        return {
            "image": simulation.draw(),
            "instruction": tasks.INSTRUCTIONS[simulation.task],
            "state": simulation.hand,
        }

    def _info(self, *, success: bool) -> dict[str, Any]:
        simulation = self.simulation
        return {"success": success, "task": simulation.task, "goal": simulation.goal}


class _Simulation:
    """One episode: Meta-World's environment with one goal, and what draws it."""

    def __init__(self, task: str, which: str, goal: int, config: MetaworldConfig):
        self.task, self.goal = task, goal
        self._env = _load("metaworld").ALL_V3_ENVIRONMENTS[task]()
        self._env.set_task(_goals(task, _GOAL_SEED + GOALS.index(which))[goal])
        # Before the reset, which computes where things are: else the first picture is another's.
        self._env.model.camera(_CAMERA).pos = _CAMERA_POSITION
        self._raw, _ = self._env.reset()
        self._policy: Any = None
        self._renderer = _load("mujoco").Renderer(
            self._env.model, config.image_size, config.image_size
        )

    @property
    def hand(self) -> np.ndarray:
        """Position in metres and opening, float32 [4]."""
        return self._raw[:4].astype(np.float32)

    def step(self, command: np.ndarray) -> tuple[bool, bool]:
        """Executes a command of the simulator's; returns success and whether time is out."""
        self._raw, _, _, truncated, info = self._env.step(command)
        return bool(info["success"]), bool(truncated)

    def draw(self) -> np.ndarray:
        """Draws uint8 [size, size, 3], upright."""
        self._renderer.update_scene(self._env.data, camera=_CAMERA)
        return self._renderer.render()[::-1, ::-1].copy()  # the camera hangs upside down

    def scripted(self) -> np.ndarray:
        """The scripted policy's command, [4], which may be out of bounds."""
        if self._policy is None:
            self._policy = _load("metaworld.policies").ENV_POLICY_MAP[self.task]()
        with warnings.catch_warnings(action="ignore"):  # that it may be out of bounds
            return np.asarray(self._policy.get_action(self._raw))

    def close(self) -> None:
        """Frees what draws."""
        self._renderer.close()
        self._env.close()


def _load(module: str) -> Any:
    return packages.load(module, "the environment metaworld", fix=INSTALL)


@functools.cache
def _goals(task: str, seed: int) -> Sequence[Any]:
    """Fifty goals of a task, as MT1 draws them; some seconds, since it simulates each."""
    return _load("metaworld").MT1(task, seed=seed).train_tasks


def _to_simulator(action: np.ndarray) -> np.ndarray:
    """Turns robot units into the simulator's -1..1, where a closing gripper is positive."""
    action = np.asarray(action, np.float32)
    return np.append(action[:3] / MAX_STEP, 1 - 2 * action[3]).clip(-1, 1)


def _from_simulator(command: np.ndarray) -> np.ndarray:
    """Inverts `_to_simulator`, float32 [4]; what is out of bounds is clipped."""
    command = np.asarray(command, np.float64).clip(-1, 1)
    return np.append(command[:3] * MAX_STEP, (1 - command[3]) / 2).astype(np.float32)
