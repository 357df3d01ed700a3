"""One Frame -> its row of tokens: prompt and target, for training and for asking."""

import numpy as np

from vla_jax.core.arrays import Bool, Int
from vla_jax.core.batch import Frame
from vla_jax.core.errors import UserError
from vla_jax.tokens import sequence
from vla_jax.tokens.action_tokens import ActionTokens
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.tokenizer import Tokenizer


class Encoder:
    """Writes prefixes and suffixes into the slots of a Batch.

    Args:
      tokenizer: text to ids.
      action_tokens: actions to ids.
      prompts: the wording.
      layout: the slots.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        action_tokens: ActionTokens,
        prompts: PromptsConfig,
        layout: sequence.SequenceConfig,
    ):
        self.tokenizer, self.action_tokens = tokenizer, action_tokens
        self.prompts, self.layout = prompts, layout
        # A data set has few distinct instructions and questions; each is laid out once.
        self._prefixes: dict[tuple[bool, str], tuple[np.ndarray, int]] = {}

    def prefix(self, text: str, *, robot: bool) -> tuple[Int[np.ndarray, " t"], int]:
        """Returns the prefix slots of an instruction (or a question) and its number of tokens.

        Raises:
          UserError: the text is empty or too long.
        """
        key = (robot, text)
        if key not in self._prefixes:
            wording = self.prompts.for_robot if robot else self.prompts.for_web
            laid_out = sequence.prefix_tokens(wording(text), self.tokenizer, self.layout)
            self._prefixes[key] = laid_out
        return self._prefixes[key]

    def encode(self, frame: Frame) -> tuple[Int[np.ndarray, " t"], int, Bool[np.ndarray, " t"]]:
        """Returns tokens, prefix length and loss mask of a training example.

        Raises:
          UserError: instruction, answer or action does not fit its slots.
        """
        prefix, length = self.prefix(frame.prefix, robot=frame.action is not None)
        if frame.action is not None:
            ids = self.action_tokens.encode(frame.action).ravel().tolist()
        elif frame.suffix:
            ids = self.tokenizer.encode(frame.suffix)
        else:
            raise UserError(
                f"example {frame.episode} of {frame.dataset}",
                expected="an action or an answer",
                found="neither",
            )
        name = f"target of {frame.dataset} episode {frame.episode} step {frame.t}"
        suffix, mask = sequence.suffix_tokens(ids, self.layout, name)
        tokens = np.concatenate([prefix, suffix])
        return tokens, length, np.concatenate([np.zeros(len(prefix), bool), mask])
