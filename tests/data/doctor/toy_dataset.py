"""A small RLDS dataset on disk, healthy but for what a test changes, and its adapter."""

import dataclasses

import numpy as np
from toy_recording import LENGTHS, SPEC, actions, png

from vla_jax.data.records import import_tfds, write_dataset
from vla_jax.data.robots.robot import Robot

NAME, IMAGE, ACTION, TEXT = "toy", "steps/image", "steps/action", "steps/instruction"
ROBOT = Robot(
    name=NAME,
    images={"primary": IMAGE},
    instruction=(TEXT,),
    arrays=(ACTION,),
    action=lambda columns: columns[ACTION],
    spec=SPEC,
    source="this test",
)


@dataclasses.dataclass
class Toy:
    """What will be written; a test makes it sick.

    Attributes:
      action: float32 [i, 7].
      texts: one per step.
      pictures: encoded, one per step.
    """

    action: np.ndarray = dataclasses.field(default_factory=actions)
    texts: list = dataclasses.field(default_factory=lambda: ["pick", "place"] * (sum(LENGTHS) // 2))
    pictures: list = dataclasses.field(
        default_factory=lambda: [png(40 + i) for i in range(sum(LENGTHS))]
    )

    def write(self, directory):
        """Writes two episodes a shard; returns the directory."""
        directory.mkdir(parents=True)
        write_dataset(
            directory,
            name=NAME,
            features=_features(),
            splits={"train": (self._examples(), len(LENGTHS))},
            examples_per_shard=2,
            version="1.0.0",
            description="for tests",
        )
        return directory

    def _examples(self):
        ends = np.cumsum(LENGTHS)
        for end, length in zip(ends, LENGTHS, strict=True):
            yield {
                "steps": [
                    {
                        "image": self.pictures[i],
                        "action": self.action[i],
                        "instruction": self.texts[i],
                        "is_first": i == end - length,
                        "is_last": i == end - 1,
                        "is_terminal": i == end - 1,
                    }
                    for i in range(end - length, end)
                ]
            }


def _features():
    tfds = import_tfds()
    step = {
        "image": tfds.features.Image(shape=(16, 16, 3), encoding_format="png"),
        "action": tfds.features.Tensor(shape=(7,), dtype=np.float32),
        "instruction": tfds.features.Text(),
        **dict.fromkeys(("is_first", "is_last", "is_terminal"), np.bool_),
    }
    return tfds.features.FeaturesDict({"steps": tfds.features.Dataset(step)})
