"""The tabletop as a gymnasium environment: image and sentence in, real units out.

Success needs both: the goal holds, and the policy said terminate.
"""

import dataclasses
import string
from typing import Any

import gymnasium
import numpy as np

from vla_jax.core.errors import UserError
from vla_jax.data.robots.tabletop import TABLETOP
from vla_jax.envs.tabletop import render, scene, world
from vla_jax.envs.tabletop.scene import TARGET, Scene
from vla_jax.envs.tabletop.world import Split, Task

ENV_ID = "vla_jax/Tabletop-v0"
HUMAN_SIZE = 256
_MAX_INSTRUCTION = 96


@dataclasses.dataclass(frozen=True, kw_only=True)
class TabletopConfig:
    """What the environment shows and asks, unless `reset` is told otherwise.

    Attributes:
      image_size: side of the observed image in pixels.
      split: which words and blocks an episode uses (see `world.SPLITS`).
      tasks: the tasks an episode's is drawn from.
      blocks: fewest and most blocks of an episode.
      max_steps: steps per stage of a task after which an episode is truncated.
    """

    image_size: int = 64
    split: Split = "seen"
    tasks: tuple[Task, ...] = world.DEFAULT_TASKS
    blocks: tuple[int, ...] = (1, 3)
    max_steps: int = 30

    def __post_init__(self) -> None:
        world.check_scene_options(self.split, self.tasks, self.blocks)
        for field in ("image_size", "max_steps"):
            if getattr(self, field) < 1:
                raise UserError(
                    f"tabletop {field}", expected="1 or more", found=getattr(self, field)
                )


class TabletopEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """Blocks on a table, seen from above, and a gripper.

    Observation: `image` uint8 [size, size, 3]; `instruction` text; `state` float32 [7] = x, y, z
    in metres, roll, pitch, yaw in radians, gripper 0 open to 1 closed, table frame.
    Action: float32 [8] in the real units of `TABLETOP.spec`. Height and rotations appear in
    the state and nowhere else: no task needs them.
    Reward: 1 on the step that terminates with the goal reached, else 0.

    Args:
      config: what to show and ask.
      render_mode: None or "rgb_array".
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(TABLETOP.spec.control_hz)}  # noqa: RUF012

    def __init__(self, config: TabletopConfig | None = None, render_mode: str | None = None):
        self.config = config or TabletopConfig()
        self.render_mode = render_mode
        size = self.config.image_size
        self.observation_space = gymnasium.spaces.Dict(
            {
                "image": gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8),
                "instruction": gymnasium.spaces.Text(
                    _MAX_INSTRUCTION, charset=string.ascii_lowercase + " "
                ),
                "state": gymnasium.spaces.Box(
                    np.append(scene.POSE_LOW, 0).astype(np.float32),
                    np.append(scene.POSE_HIGH, 1).astype(np.float32),
                ),
            }
        )
        self.action_space = gymnasium.spaces.Box(
            np.array(TABLETOP.spec.low, np.float32),
            np.array(TABLETOP.spec.high, np.float32),
        )
        self._scene: Scene | None = None

    @property
    def scene(self) -> Scene:
        """The current scene; `reset` starts one."""
        if self._scene is None:
            raise gymnasium.error.ResetNeeded("call reset() before using the tabletop")
        return self._scene

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode: with a seed, a pure function of (seed, options).

        Args:
          seed: fixes the episode; without it the environment's own randomness goes on.
          options: any of `split`, `task` (one task) and `blocks` (fewest, most), in place of
            the configuration's.

        Returns:
          The first observation, and the info.

        Raises:
          UserError: an unknown option, or a value that has no scene.
        """
        super().reset(seed=seed)
        options = options or {}
        unknown = sorted(set(options) - {"split", "task", "blocks"})
        if unknown:
            raise UserError(
                f"tabletop reset option {unknown[0]!r}", expected="split, task or blocks"
            )
        self._scene = scene.sample(
            self.np_random,
            split=options.get("split", self.config.split),
            tasks=(options["task"],) if "task" in options else self.config.tasks,
            blocks=tuple(options.get("blocks", self.config.blocks)),
        )
        return self._observe(), self._info(success=False)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Executes one command.

        Args:
          action: float32 [8], real units; out of bounds is clipped; terminate above 0.5 ends.

        Returns:
          Observation, reward, terminated, truncated (the step limit), info.
        """
        action = np.asarray(action, np.float32)
        self.scene.step(action)
        terminated = bool(action[0] > 0.5)
        success = terminated and self.scene.is_goal()
        truncated = not terminated and self.scene.is_out_of_time(self.config.max_steps)
        return self._observe(), float(success), terminated, truncated, self._info(success=success)

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A picture for people: uint8 [256, 256, 3], or None without a render mode."""
        if self.render_mode is None:
            return None
        return render.render(self.scene, HUMAN_SIZE)

    def _observe(self) -> dict[str, Any]:
        return {
            "image": render.render(self.scene, self.config.image_size),
            "instruction": self.scene.instruction,
            "state": self.scene.state,
        }

    def _info(self, *, success: bool) -> dict[str, Any]:
        current = self.scene
        return {
            "success": success,
            "goal": current.is_goal(),
            "task": current.task,
            "split": current.split,
            "instruction": current.instruction,
            "grasped": current.grasped,
            "wrong_block": current.grasped not in (-1, TARGET),
            "blocks": [
                {"colour": block.colour, "shape": block.shape, "position": tuple(map(float, xy))}
                for block, xy in zip(current.blocks, current.positions, strict=True)
            ],
        }
