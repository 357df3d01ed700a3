"""Images and an instruction in, an action in robot units out."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from vla_jax.core.arrays import Float, Int, UInt8
from vla_jax.core.batch import Example
from vla_jax.core.errors import UserError
from vla_jax.data import images as images_lib
from vla_jax.policy.decode import make_decoder
from vla_jax.tokens import grammar
from vla_jax.tokens.encoder import Encoder
from vla_jax.tokens.tokenizer import EOS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Action:
    """What a policy wants done.

    Attributes:
      values: float32 [n, a] in the units of the ActionSpec; n steps, to be executed in order.
      tokens: int32 [n * a], as decoded.
      terminate: True if the first step ends the episode.
      milliseconds: time of each stage: `prepare`, `decode`.
    """

    values: Float[np.ndarray, "n a"]
    tokens: Int[np.ndarray, " t"]
    terminate: bool
    milliseconds: Mapping[str, float]


class Policy:
    """A trained model with everything that turns its tokens into actions.

    Args:
      graph: the model's structure.
      params: its parameters.
      encoder: prompts, tokenizer, action tokens, layout.
      robot: the robot dataset whose actions are wanted; may be left out where there is one.
      views: names of the camera views of that robot, in the order of training. A view that this
        robot lacks is simply absent: padding does not count as a position.
      image_size: side of the images the model takes, pixels.
      resize: how images are resized, as in training.

    Raises:
      UserError: there is no such robot, or there are several and none is named.
    """

    def __init__(
        self,
        graph: nnx.GraphDef,
        params: Any,
        encoder: Encoder,
        *,
        robot: str | None = None,
        views: Sequence[str],
        image_size: int,
        resize: images_lib.Resize = "linear",
    ):
        self.params, self.encoder = params, encoder
        self.robot = encoder.robot(robot)
        self.action_tokens = encoder.actions[self.robot]
        self.views, self.image_size = tuple(views), image_size
        self.resize: images_lib.Resize = resize
        vocabulary = encoder.tokenizer.size
        self._decode_action = make_decoder(
            graph, grammar.action_mask(self.action_tokens, vocabulary, encoder.chunk)
        )
        self._decode_text = make_decoder(graph, np.ones((encoder.layout.suffix, vocabulary), bool))

    def load(self, params: Any) -> None:
        """Takes other parameters of the same model, placed as those it was made with."""
        places = jax.tree.map(lambda leaf: leaf.sharding, self.params)
        self.params = jax.device_put(params, places)

    def act(self, images: Mapping[str, UInt8[np.ndarray, "y x 3"]], instruction: str) -> Action:
        """Decides on one observation.

        Args:
          images: view name -> uint8 RGB, any size.
          instruction: what to do, in words.

        Raises:
          UserError: a view is missing or unknown, an image is not RGB uint8, the instruction is
            empty or too long.
        """
        start = time.perf_counter()
        stacked = self.stack(images)[None]
        prepared = time.perf_counter()
        values, tokens = self.act_batch(stacked, [instruction])
        done = time.perf_counter()
        return Action(
            values=values[0],
            tokens=tokens[0],
            terminate=self._terminates(values[0]),
            milliseconds={"prepare": 1e3 * (prepared - start), "decode": 1e3 * (done - prepared)},
        )

    def act_batch(
        self, images: UInt8[np.ndarray, "b w y x 3"], instructions: Sequence[str]
    ) -> tuple[Float[np.ndarray, "b n a"], Int[np.ndarray, "b t"]]:
        """Decides on b observations of the model's image size; returns actions and tokens."""
        tokens = np.asarray(
            self._decode_action(self.params, images, *self._prefixes(instructions, robot=True))
        )
        actions = tokens.reshape(len(tokens), -1, self.action_tokens.spec.size)
        return self.action_tokens.decode(actions), tokens

    def answer_batch(
        self,
        images: UInt8[np.ndarray, "b w y x 3"],
        questions: Sequence[str],
        *,
        are_prompts: Sequence[bool] | None = None,
    ) -> list[str]:
        """Answers b questions, each about its image, in free text.

        Args:
          images: of the model's image size.
          questions: one per image.
          are_prompts: which of them are whole prompts, as in Target; None for none.
        """
        prefixes = self._prefixes(questions, robot=False, are_prompts=are_prompts)
        tokens = np.asarray(self._decode_text(self.params, images, *prefixes))
        answers = [row[: row.index(EOS)] if EOS in row else row for row in tokens.tolist()]
        return [self.encoder.tokenizer.decode(row) for row in answers]

    def stack(
        self, images: Mapping[str, UInt8[np.ndarray, "y x 3"]]
    ) -> UInt8[np.ndarray, "w y x 3"]:
        """Checks, resizes and stacks the views of one observation, as in training.

        Raises:
          UserError: see `act`.
        """
        if set(images) != set(self.views):
            raise UserError(
                "observation images",
                expected=f"the views {', '.join(self.views)}",
                found=", ".join(images) or "none",
            )
        return np.stack(
            [
                images_lib.resize(
                    images_lib.check(images[view], view), self.image_size, self.resize
                )
                for view in self.views
            ]
        )

    def observe(self, example: Example) -> UInt8[np.ndarray, "w y x 3"]:
        """Decodes and resizes the present step of a stored example, as in training.

        Raises:
          UserError: an image is damaged.
        """
        at_least = self.image_size if self.resize == "linear" else None
        stored = [example.images[view][-1] for view in self.views if view in example.images]
        return np.stack(
            [
                images_lib.resize(
                    images_lib.decode(data, example.name, at_least=at_least),
                    self.image_size,
                    self.resize,
                )
                for data in stored
                if data is not None
            ]
        )

    def _prefixes(
        self, texts: Sequence[str], *, robot: bool, are_prompts: Sequence[bool] | None = None
    ) -> tuple[Int[np.ndarray, "b t"], Int[np.ndarray, " b"]]:
        rows = [
            self.encoder.prefix(text, robot=robot, is_prompt=is_prompt)
            for text, is_prompt in zip(texts, are_prompts or [False] * len(texts), strict=True)
        ]
        return np.stack([row[0] for row in rows]), np.array([row[1] for row in rows], np.int32)

    def _terminates(self, values: Float[np.ndarray, "n a"]) -> bool:
        names = self.action_tokens.spec.names
        return "terminate" in names and bool(values[0, names.index("terminate")] > 0.5)
