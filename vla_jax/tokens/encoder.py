"""One example -> its row of tokens: prompt and target, for training and for asking."""

import functools
from collections.abc import Mapping

import numpy as np

from vla_jax.core.arrays import Bool, Int
from vla_jax.core.batch import Target
from vla_jax.core.errors import UserError, nearest
from vla_jax.tokens import sequence
from vla_jax.tokens.action_tokens import ActionTokens
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.tokenizer import Tokenizer

_REMEMBERED = 50_000  # prompts; a web set may have millions, and memory is bounded


class Encoder:
    """Writes prefixes and suffixes into the slots of a Batch.

    Args:
      tokenizer: text to ids.
      actions: robot dataset -> its actions to ids; all share the ids.
      prompts: the wording.
      layout: the slots.
      chunk: actions in one target.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        actions: Mapping[str, ActionTokens],
        prompts: PromptsConfig,
        layout: sequence.SequenceConfig,
        *,
        chunk: int = 1,
    ):
        self.tokenizer, self.actions = tokenizer, dict(actions)
        self.prompts, self.layout, self.chunk = prompts, layout, chunk
        # Most datasets have few distinct instructions; each is laid out once.
        self._prefix = functools.lru_cache(maxsize=_REMEMBERED)(self._lay_out)

    @property
    def action_token_ids(self) -> tuple[int, ...]:
        """The ids of the action bins, bin 0 first, the same for all robots; empty without one."""
        return next((tokens.ids for tokens in self.actions.values()), ())

    def robot(self, name: str | None = None) -> str:
        """Returns the robot dataset meant: the only one there is, or the one named.

        Raises:
          UserError: there are several and none was named, or there is none of this name.
        """
        if name is None and len(self.actions) == 1:
            return next(iter(self.actions))
        if name is None or name not in self.actions:
            raise UserError(
                "robot of the policy",
                expected=f"one of {', '.join(self.actions)}",
                found=name or "none named",
                fix=nearest(name or "", list(self.actions)) or "Name the robot it is to drive",
            )
        return name

    def prefix(
        self, text: str, *, robot: bool, is_prompt: bool = False
    ) -> tuple[Int[np.ndarray, " t"], int]:
        """Returns the prefix slots of an instruction (or a question) and its number of tokens.

        Args:
          text: the instruction or the question.
          robot: whether it is an instruction.
          is_prompt: whether it is the whole prompt, as in Target.

        Raises:
          UserError: the text is empty or too long.
        """
        return self._prefix(text, robot, is_prompt)

    def encode(self, target: Target) -> tuple[Int[np.ndarray, " t"], int, Bool[np.ndarray, " t"]]:
        """Returns tokens, prefix length and loss mask of a training example.

        Actions beyond the end of the episode are written but not supervised.

        Raises:
          UserError: instruction, answer or action does not fit its slots.
        """
        prefix, length = self.prefix(
            target.prefix, robot=target.action is not None, is_prompt=target.is_prompt
        )
        supervised = None
        if target.action is not None:
            ids = self.actions[target.dataset].encode(target.action).ravel().tolist()
            if target.action_mask is not None:
                supervised = np.repeat(target.action_mask, target.action.shape[1])
        elif target.suffix:
            ids = self.tokenizer.encode(target.suffix)
        else:
            raise UserError(
                f"example {target.name}", expected="an action or an answer", found="neither"
            )
        suffix, mask = sequence.suffix_tokens(ids, self.layout, f"target of {target.name}")
        if supervised is not None:
            mask[: len(ids)] &= supervised
        tokens = np.concatenate([prefix, suffix])
        return tokens, length, np.concatenate([np.zeros(len(prefix), bool), mask])

    def _lay_out(
        self, text: str, robot: bool, is_prompt: bool
    ) -> tuple[Int[np.ndarray, " t"], int]:
        wording = self.prompts.for_robot if robot else self.prompts.for_web
        wording = self.prompts.as_it_is if is_prompt else wording
        return sequence.prefix_tokens(wording(text), self.tokenizer, self.layout)
