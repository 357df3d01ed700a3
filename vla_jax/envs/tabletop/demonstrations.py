"""Robot demonstrations of the scripted expert, in RLDS form.

One example is one episode: its steps are (observation, action, ...) with the action that the
expert chose for that observation; the last step is the one that terminates.
"""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import simplejpeg

from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, Count, JpegQuality, Range
from vla_jax.data import records
from vla_jax.envs.tabletop import expert, render, scene, world
from vla_jax.envs.tabletop.expert import NoiseConfig
from vla_jax.envs.tabletop.scene import Scene
from vla_jax.envs.tabletop.world import Task

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

NAME = "tabletop"
SPLIT = "train"
_STREAM = 1  # keeps the episodes' random numbers apart from the questions'
_MAX_ATTEMPTS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemonstrationsConfig(Checked):
    """What the robot dataset holds. All episodes are of the split `seen`.

    Attributes:
      episodes: number of episodes.
      tasks: the tasks an episode's is drawn from.
      blocks: fewest and most blocks of an episode.
      max_steps: steps per stage of a task that the expert may take.
      noise: how far the executed actions stray from the stored ones.
      jpeg_quality: 1..100.
      plans: whether each step says what the expert is about to do (`steps/plan`).
    """

    episodes: Count = 4000
    tasks: tuple[Task, ...] = world.DEFAULT_TASKS
    blocks: tuple[world.Blocks, ...] = (1, 3)
    max_steps: Annotated[int, Range(1, 10_000)] = 30
    noise: NoiseConfig = dataclasses.field(default_factory=NoiseConfig)
    jpeg_quality: JpegQuality = 95
    plans: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        world.check_scene_options("seen", self.tasks, self.blocks)


def features(image_size: int, *, plans: bool = False) -> "tfds.features.FeaturesDict":
    """The RLDS features of an episode.

    Args:
      image_size: side of the images in pixels.
      plans: whether steps have one.
    """
    tfds = records.import_tfds()
    kinds = tfds.features
    step = {
        "observation": {
            "image": kinds.Image(
                shape=(image_size, image_size, 3),
                encoding_format="jpeg",
                doc="RGB, the table from above",
            ),
            "state": kinds.Tensor(
                shape=(7,),
                dtype=np.float32,
                doc="x, y, z metres, roll, pitch, yaw radians, gripper 0 open 1 closed",
            ),
        },
        "action": kinds.Tensor(
            shape=(8,),
            dtype=np.float32,
            doc="terminate, dx, dy, dz metres, droll, dpitch, dyaw radians, gripper 1 closed",
        ),
        "language_instruction": kinds.Text(),
        "is_first": np.bool_,
        "is_last": np.bool_,
        "is_terminal": np.bool_,
        "reward": np.float32,
        "discount": np.float32,
    }
    if plans:
        step["plan"] = kinds.Text(doc="what the expert is about to do")
    metadata = {
        "episode_id": np.int64,
        "task": kinds.Text(),
        "split": kinds.Text(),
        "seed": np.int64,
        "blocks": kinds.Text(),
    }
    return kinds.FeaturesDict({"steps": kinds.Dataset(step), "episode_metadata": metadata})


def episodes(
    config: DemonstrationsConfig, image_size: int, seed: int, first: int, last: int
) -> list[dict[str, Any]]:
    """Generates episodes `first` to `last` (excluded); each is f(config, seed, its number)."""
    return [episode(config, image_size, seed, index) for index in range(first, last)]


def episode(config: DemonstrationsConfig, image_size: int, seed: int, index: int) -> dict[str, Any]:
    """Generates one successful episode.

    An attempt that noise kept from succeeding in time is dropped and drawn again.

    Args:
      config: what to generate.
      image_size: side of the images in pixels.
      seed: the dataset's seed.
      index: the episode's number; it becomes `episode_id`.

    Returns:
      An example as `features` encodes it; images are JPEG bytes.

    Raises:
      UserError: no attempt succeeded.
    """
    for attempt in range(_MAX_ATTEMPTS):
        rng = np.random.default_rng([seed, _STREAM, index, attempt])
        current = scene.sample(rng, tasks=config.tasks, blocks=config.blocks)
        steps = _roll_out(current, rng, config, image_size)
        if current.is_goal() and steps[-1]["is_terminal"]:
            metadata = {
                "episode_id": index,
                "task": current.task,
                "split": current.split,
                "seed": seed,
                "blocks": ", ".join(block.name for block in current.blocks),
            }
            return {"steps": steps, "episode_metadata": metadata}
    raise UserError(
        f"episode {index}: the expert failed {_MAX_ATTEMPTS} times within {config.max_steps} steps",
        fix="Raise max_steps or lower the noise",
    )


def _roll_out(
    current: Scene, rng: np.random.Generator, config: DemonstrationsConfig, image_size: int
) -> list[dict[str, Any]]:
    """Steps the scene to its end and returns the RLDS steps."""
    steps: list[dict[str, Any]] = []
    while True:
        action = expert.scene_action(current)
        image = render.render(current, image_size)
        step = {
            "observation": {
                "image": encode_jpeg(image, config.jpeg_quality),
                "state": current.state,
            },
            "action": action,
            "language_instruction": current.instruction,
            "is_first": not steps,
            "is_last": False,
            "is_terminal": False,
            "reward": 0.0,
            "discount": 1.0,
        }
        if config.plans:
            step["plan"] = expert.plan(current)
        steps.append(step)
        current.step(expert.perturb(action, rng, config.noise))
        terminated = bool(action[0] > 0.5)
        if terminated or current.is_out_of_time(config.max_steps):
            succeeded = terminated and current.is_goal()
            step |= {
                "is_last": True,
                "is_terminal": terminated,
                "reward": float(succeeded),
                "discount": 0.0 if terminated else 1.0,
            }
            return steps


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encodes uint8 [y, x, 3] RGB; full chroma, since colour is what the tasks are about."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=quality, colorspace="RGB", colorsubsampling="444"
    )
