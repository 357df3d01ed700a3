"""Language-Table as an environment: image and sentence in, displacements of the rod out.

Source: google-research/language-table, language_table/eval/main.py.
"""

import contextlib
import string
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from vla_jax.core.errors import UserError
from vla_jax.data.robots.language_table import SIMULATED
from vla_jax.envs.language_table import source
from vla_jax.envs.own_random import OwnRandom
from vla_jax.envs.simulator import SimulatorEnv

HEIGHT, WIDTH = 180, 320  # the simulator's camera
MAX_STEPS = 200
_MAX_INSTRUCTION = 512  # bytes, also of the encoded form
_MAX_DRAWS = 100  # scenes until one is solvable; about nine in ten are
_TABLE_LOW, _TABLE_HIGH = (0.05, -0.4048), (0.7, 0.4048)  # its own bounds of the effector, metres


class LanguageTableEnv(SimulatorEnv["_Simulation"]):
    """A rod pushes eight blocks about a table.

    Observation: `image` uint8 [180, 320, 3]; `instruction` text; `state` float32 [2], the rod's x
    and y in metres.
    Action: float32 [2], metres per step.
    Reward: 1 on the step that succeeds, which ends the episode, else 0. After 200 steps it is
    truncated.

    As in the published evaluation, scenes for which the oracle finds no plan are drawn again. Every
    episode is a simulator of its own: a used one does not forget its motors' targets.

    Args:
      render_mode: None or "rgb_array".

    Raises:
      UserError: the simulator is not installed.
    """

    metadata = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": int(SIMULATED.spec.control_hz),
    }

    def __init__(self, render_mode: str | None = None):
        source.load()
        observations = {
            "image": gymnasium.spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8),
            "instruction": gymnasium.spaces.Text(_MAX_INSTRUCTION, charset=string.printable),
            "state": gymnasium.spaces.Box(
                np.array(_TABLE_LOW, np.float32), np.array(_TABLE_HIGH, np.float32)
            ),
        }
        super().__init__("language_table", SIMULATED.spec, observations, render_mode)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode: with a seed, a pure function of (seed, options).

        Args:
          seed: of the scene, the task and the oracle's plans.
          options: `task`, one of the five families; drawn by default.

        Raises:
          UserError: an unknown option or family.
        """
        super().reset(seed=seed)
        (family,) = self._choose(options, {"task": source.FAMILIES})
        self.close()
        self._simulation = _Simulation(family, int(self.np_random.integers(2**31)))
        return self._observe(), self._info(success=False)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Executes one command.

        Args:
          action: float32 [2], metres; out of bounds is clipped.

        Returns:
          Observation, reward, terminated (success), truncated (after 200 steps), info.
        """
        spec = SIMULATED.spec
        success = self.simulation.step(np.clip(np.asarray(action, np.float32), spec.low, spec.high))
        truncated = not success and self.simulation.steps >= MAX_STEPS
        return self._observe(), float(success), success, truncated, self._info(success=success)

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What the policy sees: uint8 [180, 320, 3], or None without a render mode."""
        return None if self.render_mode is None else self.simulation.observation["rgb"]

    def expert_action(self) -> np.ndarray:
        """The command of the simulator's oracle: float32 [2], metres, within bounds."""
        return self.simulation.plan()

    def recorded(self) -> dict[str, np.ndarray]:
        """What its dataset has of the present state; the instruction as UTF-8 codes."""
        seen = self.simulation.observation
        return {
            f"observation/{name}": np.asarray(seen[name])
            for name in ("effector_translation", "effector_target_translation", "instruction")
        }

    def _observe(self) -> dict[str, Any]:
        seen = self.simulation.observation
        return {
            "image": seen["rgb"],
            "instruction": self.simulation.instruction,
            "state": np.asarray(seen["effector_translation"], np.float32),
        }

    def _info(self, *, success: bool) -> dict[str, Any]:
        return {"success": success, "task": self.simulation.family}


class _Simulation:
    """One episode: the simulator with one scene and task, and its oracle.

    Parts of the source draw from NumPy's global generator; they find the episode's own.
    """

    def __init__(self, family: str, seed: int):
        found = source.load()
        self.family, self.steps = family, 0
        self._own_random = OwnRandom(seed)
        self._drawing = True
        with self._own_random():
            self._table = found.simulator(
                block_mode=found.eight_blocks, reward_factory=found.rewards[family], seed=seed
            )
            # What a wrapper of tf_agents gives; the oracle asks for them.
            self._table.get_control_frequency = lambda: SIMULATED.spec.control_hz
            self._table.time_step_spec = self._table.action_spec = lambda: None
            draw = self._table._render_camera
            self._table._render_camera = lambda *a, **k: draw(*a, **k) if self._drawing else None
            self._oracle = found.oracle(self._table, use_ee_planner=True)
            self.observation = self._draw_scene()

    @property
    def instruction(self) -> str:
        """The task in words."""
        return self._table.decode_instruction(self.observation["instruction"])

    def step(self, action: np.ndarray) -> bool:
        """Executes a command; returns success."""
        with self._own_random():
            self.observation, reward, _, _ = self._table.step(action)
        self.steps += 1
        return reward > 0

    def plan(self) -> np.ndarray:
        """The oracle's command for the present state, within bounds."""
        with self._own_random(), self._undrawn():
            action = self._oracle._action(_Step(), ()).action
        return np.clip(action, SIMULATED.spec.low, SIMULATED.spec.high).astype(np.float32)

    def close(self) -> None:
        """Ends the physics server."""
        self._table.pybullet_client.disconnect()

    def _draw_scene(self) -> dict[str, Any]:
        """Resets until the oracle has a plan, and returns the first observation."""
        for _ in range(_MAX_DRAWS):
            observation = self._table.reset()
            self._oracle.reset()
            with self._undrawn():
                if self._oracle.get_plan(self._table.compute_state()):
                    return observation
        raise UserError(
            f"language_table {self.family}: no scene that its oracle can solve",
            expected=f"one in {_MAX_DRAWS}",
            found="none",
        )

    @contextlib.contextmanager
    def _undrawn(self) -> Iterator[None]:
        """Leaves out the picture, 40 ms, from states of which only the numbers are read."""
        self._drawing = False
        try:
            yield
        finally:
            self._drawing = True


class _Step:
    """The part of a tf_agents time step that the oracle looks at."""

    @staticmethod
    def is_first() -> bool:
        """Never: a plan has been made."""
        return False
