"""The "web" side of co-fine-tuning: pictures of blocks with a question and an answer in words.

These pictures show every colour and every shape, also those that no robot episode shows or names;
the transfer from them to the robot is what co-fine-tuning is about. Every answer is computed from
the scene that was drawn.
"""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, Count, JpegQuality, NotNegative, Range, Share
from vla_jax.data import records
from vla_jax.envs.tabletop import answers, demonstrations, render, world
from vla_jax.envs.tabletop.answers import KINDS, LOCATIONS, TWO_BLOCK_KINDS, Picture
from vla_jax.envs.tabletop.scene import sample_layout
from vla_jax.envs.tabletop.world import Block

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

NAME = "tabletop_questions"
SPLITS = ("train", "validation")
_STREAMS = {"train": 2, "validation": 3}
_GRIPPER_RATE = 0.5
_CLOSED_RATE = 0.3


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionsConfig(Checked):
    """What the question dataset holds.

    Attributes:
      train: number of pairs to train on.
      validation: number of pairs to validate on; drawn apart from the others.
      kinds: relative weight per kind of question (see `answers.KINDS`).
      blocks: fewest and most blocks of a picture.
      synonym_rate: probability that a colour or a shape is asked about by its synonym.
      location_levels: cells per axis that a location is rounded to.
      background_noise: standard deviation of the table's colour, of 255.
      jpeg_quality: 1..100.
    """

    train: Count = 20000
    validation: Count = 600
    kinds: dict[str, NotNegative] = dataclasses.field(
        default_factory=lambda: {"locate": 3.0, "colour": 1.0, "shape": 1.0}
    )
    blocks: tuple[world.Blocks, ...] = (1, 3)
    synonym_rate: Share = 0.25
    location_levels: Annotated[int, Range(1, LOCATIONS)] = 16
    background_noise: Annotated[float, Range(0, 255)] = 8.0
    jpeg_quality: JpegQuality = 95

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.kinds:
            if kind not in KINDS:
                raise UserError(
                    f"questions kinds: no kind {kind!r}", expected=f"some of {', '.join(KINDS)}"
                )
        if not sum(self.kinds.values()) > 0:
            raise UserError("questions kinds", expected="a weight above 0", found=self.kinds)
        if len(self.blocks) != 2 or not 1 <= self.blocks[0] <= self.blocks[1] <= world.MAX_BLOCKS:
            raise UserError(
                "questions blocks",
                expected=f"(fewest, most) with 1 <= fewest <= most <= {world.MAX_BLOCKS}",
                found=self.blocks,
            )
        if self.blocks[1] < 2 and any(self.kinds.get(kind) for kind in TWO_BLOCK_KINDS):
            raise UserError(
                f"questions kinds: {' and '.join(TWO_BLOCK_KINDS)} need two blocks",
                expected="blocks of at most 2 or more",
                found=self.blocks,
            )


def features(image_size: int) -> "tfds.features.FeaturesDict":
    """The features of a question.

    Args:
      image_size: side of the images in pixels.
    """
    kinds = records.import_tfds().features
    return kinds.FeaturesDict(
        {
            "image": kinds.Image(
                shape=(image_size, image_size, 3), encoding_format="jpeg", doc="RGB"
            ),
            "question": kinds.Text(),
            "answer": kinds.Text(),
            "kind": kinds.Text(),
        }
    )


def questions(
    config: QuestionsConfig, image_size: int, seed: int, split: str, first: int, last: int
) -> list[dict[str, Any]]:
    """Generates questions `first` to `last` (excluded); each is f(config, seed, split, number)."""
    return [question(config, image_size, seed, split, index) for index in range(first, last)]


def question(
    config: QuestionsConfig, image_size: int, seed: int, split: str, index: int
) -> dict[str, Any]:
    """Generates one question.

    Args:
      config: what to generate.
      image_size: side of the image in pixels.
      seed: the dataset's seed.
      split: train or validation.
      index: the question's number.

    Returns:
      An example as `features` encodes it; the image is JPEG bytes.
    """
    rng = np.random.default_rng([seed, _STREAMS[split], index])
    kind = _choose_kind(rng, config.kinds)
    picture = sample_picture(rng, config, kind)
    image = _draw(rng, picture, config, image_size)
    text, answer = answers.ask(
        rng,
        kind,
        picture,
        synonym_rate=config.synonym_rate,
        location_levels=config.location_levels,
    )
    return {
        "image": demonstrations.encode_jpeg(image, config.jpeg_quality),
        "question": text,
        "answer": answer,
        "kind": kind,
    }


def _choose_kind(rng: np.random.Generator, weights: dict[str, float]) -> str:
    kinds = sorted(weights)  # the order in which a dictionary was written changes nothing
    edges = np.cumsum([weights[kind] for kind in kinds])
    return kinds[int(np.searchsorted(edges, rng.uniform(0, edges[-1]), side="right"))]


def sample_picture(rng: np.random.Generator, config: QuestionsConfig, kind: str) -> Picture:
    """Draws blocks, all colours and shapes alike, that differ pairwise in both."""
    fewest = max(config.blocks[0], 2) if kind in TWO_BLOCK_KINDS else config.blocks[0]
    count = int(rng.integers(fewest, config.blocks[1] + 1))
    colours = rng.permutation(list(world.COLOURS))[:count]
    shapes = rng.permutation(world.SHAPES)[:count]
    blocks = tuple(Block(str(c), str(s)) for c, s in zip(colours, shapes, strict=True))
    return Picture(blocks, sample_layout(rng, count))


def _draw(
    rng: np.random.Generator, picture: Picture, config: QuestionsConfig, image_size: int
) -> np.ndarray:
    shade = np.array(render.BACKGROUND) + rng.normal(0, config.background_noise, 3)
    red, green, blue = (int(value) for value in np.clip(np.round(shade), 0, 255))
    x, y = (float(value) for value in rng.uniform(*world.GRIPPER_START, 2))
    has_gripper = rng.random() < _GRIPPER_RATE
    return render.draw(
        picture.blocks,
        picture.positions,
        gripper=(x, y) if has_gripper else None,
        closed=bool(rng.random() < _CLOSED_RATE),
        size=image_size,
        background=(red, green, blue),
    )
