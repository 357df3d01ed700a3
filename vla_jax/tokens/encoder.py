"""One example -> its row of tokens: prompt and target, for training and for asking."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from vla_jax.actions.statistics import Statistics
from vla_jax.core.arrays import Bool, Int
from vla_jax.core.batch import Target
from vla_jax.core.errors import TextError, UserError, nearest
from vla_jax.core.words import is_seen
from vla_jax.tokens import sequence
from vla_jax.tokens.action_tokens import ActionTokens
from vla_jax.tokens.fast_tokens import FastTokens
from vla_jax.tokens.prompts import MARKER, OPENING, PromptsConfig
from vla_jax.tokens.tokenizer import Tokenizer

# What a text of a dataset is; `places` is an answer whose `<locNNNN>` are tokens.
Role = Literal["instruction", "plan", "question", "prompt", "answer", "places"]

_REMEMBERED = 50_000  # prompts and answers; a web set may have millions, and memory is bounded


class Encoder:
    """Writes prefixes and suffixes into the slots of a Batch.

    Args:
      tokenizer: text to ids.
      actions: robot dataset -> its actions to ids; all share the ids.
      prompts: the wording.
      layout: the slots.
      chunk: actions in one target.
      states: robot dataset -> statistics of its proprioception, for a model that takes it.
      image_tokens: slots of an example's images inside the prompt; 0 where they stand before it.
      rows: of the model's embedding, where it is known to have more than the tokenizer has ids.

    Attributes:
      tokenizer: the same, but that no text is written by tokens of actions.
      plan_frame: the tokens around a plan, `Plan:` and `Action:`; None without plans.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        actions: Mapping[str, ActionTokens | FastTokens],
        prompts: PromptsConfig,
        layout: sequence.SequenceConfig,
        *,
        chunk: int = 1,
        states: Mapping[str, Statistics] | None = None,
        image_tokens: int = 0,
        rows: int = 0,
    ):
        self.actions = dict(actions)
        self.tokenizer = tokenizer.barring(_overwritten(tokenizer, self.action_token_ids))
        self.prompts, self.layout, self.chunk = prompts, layout, chunk
        self.states, self.image_tokens = dict(states or {}), image_tokens
        self.vocabulary = max(rows, tokenizer.size)
        self.plan_frame: tuple[list[int], list[int]] | None = None
        if prompts.plan != "none":
            self.plan_frame = (tokenizer.encode(OPENING), tokenizer.encode(MARKER))
        # Most datasets have few distinct instructions; each is laid out once.
        self._prefix = functools.lru_cache(maxsize=_REMEMBERED)(self._lay_out)
        self._answer = functools.lru_cache(maxsize=_REMEMBERED)(self._write_answer)
        self._plan = functools.lru_cache(maxsize=_REMEMBERED)(self._write_plan)

    @property
    def action_token_ids(self) -> tuple[int, ...]:
        """The ids of actions, bin 0 first, the same for all robots; empty without one."""
        return next((tokens.ids for tokens in self.actions.values()), ())

    def split(
        self, suffix: Int[np.ndarray, " t"]
    ) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " a"]]:
        """Returns the tokens of a plan's words, none without a plan, and those of the action.

        Args:
          suffix: what a robot's prompt is answered with, legal or of a training example.
        """
        of_action = np.isin(suffix, self.action_token_ids)
        opening, marker = self.plan_frame or ((), ())
        begin = int(of_action.argmax()) - len(marker)
        return suffix[len(opening) : begin], suffix[of_action]

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
          TextError: the text is blank or too long.
        """
        return self._prefix(text, robot, is_prompt)

    def check(self, target: Target) -> None:
        """Checks that the texts of a training example can be written; what was written is kept.

        Raises:
          TextError: its instruction, question, answer or plan is blank or does not fit its slots.
        """
        is_robot = target.action is not None
        self.prefix(target.prefix, robot=is_robot, is_prompt=target.is_prompt)
        if is_robot:
            self._plan_tokens(target)
        else:
            self._answer_tokens(target)

    def lay_out(self, text: str, role: Role) -> None:
        """Checks that a text can be written, as `check` does; without the example it is of."""
        if role == "plan":
            self._plan(text)
        elif role in ("answer", "places"):
            self._answer(text, role == "places")
        else:
            self.prefix(text, robot=role == "instruction", is_prompt=role == "prompt")

    def encode(self, target: Target) -> tuple[Int[np.ndarray, " t"], int, Bool[np.ndarray, " t"]]:
        """Returns tokens, prefix length and loss mask of a training example.

        Raises:
          UserError: instruction, answer or action does not fit its slots.
        """
        tokens, lengths, mask = self.encode_all([target])
        return tokens[0], int(lengths[0]), mask[0]

    def encode_all(
        self, targets: Sequence[Target]
    ) -> tuple[Int[np.ndarray, "b t"], Int[np.ndarray, " b"], Bool[np.ndarray, "b t"]]:
        """Returns tokens, prefix lengths and loss masks of training examples.

        Actions beyond the end of the episode are written but not supervised.

        Args:
          targets: at least one; the actions of a dataset all have the same shape.

        Raises:
          UserError: instruction, answer or action does not fit its slots.
        """
        for target in targets:
            try:
                self.check(target)
            except TextError as error:
                message = f"{target.name}: {str(error).removesuffix('.')}"
                raise TextError(message).of(error.text, error.needed) from error
        prefix, lengths = zip(
            *(
                self.prefix(t.prefix, robot=t.action is not None, is_prompt=t.is_prompt)
                for t in targets
            ),
            strict=True,
        )
        suffix = np.empty((len(targets), self.layout.suffix), np.int32)
        mask = np.zeros((len(targets), self.layout.prefix + self.layout.suffix), bool)
        supervised = mask[:, self.layout.prefix :]
        for rows, ids, wanted in self._suffixes(targets):
            name = f"target of {targets[rows[0]].name}"
            suffix[rows], used = sequence.suffix_tokens(ids, self.tokenizer, self.layout, name)
            used[:, : ids.shape[1]] &= wanted
            supervised[rows] = used
        tokens = np.concatenate([np.stack(prefix), suffix], axis=1)
        return tokens, np.array(lengths, np.int32), mask

    def _suffixes(
        self, targets: Sequence[Target]
    ) -> Iterator[tuple[list[int], Int[np.ndarray, "n w"], Bool[np.ndarray, "n w"]]]:
        """Yields rows, the ids of their targets and which of these are supervised.

        All actions of a dataset come at once: one by one they cost a tenth of decoding an image.
        """
        robots: dict[str, list[int]] = {}
        for row, target in enumerate(targets):
            if target.action is not None:
                robots.setdefault(target.dataset, []).append(row)
            else:
                ids = self._answer_tokens(target)[None]
                yield [row], ids, np.ones(ids.shape, bool)
        for name, rows in robots.items():
            yield from self._strings(name, rows, targets)

    def _strings(
        self, name: str, rows: list[int], targets: Sequence[Target]
    ) -> Iterator[tuple[list[int], Int[np.ndarray, "n w"], Bool[np.ndarray, "n w"]]]:
        """Yields those rows of one robot whose targets are of one length, and so on."""
        actions = np.array([targets[row].action for row in rows])
        inside = np.ones(actions.shape[:2], bool)
        for number, row in enumerate(rows):
            if (mask := targets[row].action_mask) is not None:
                inside[number] = mask
        strings, wanted = self.actions[name].write(actions), self.actions[name].supervised(inside)
        wanted = [np.ones(len(ids), bool) for ids in strings] if wanted is None else wanted
        lengths: dict[int, list[int]] = {}
        for number, row in enumerate(rows):
            if len(plan := self._plan_tokens(targets[row])):
                strings[number] = np.concatenate([plan, strings[number]])
                wanted[number] = np.concatenate([np.ones(len(plan), bool), wanted[number]])
            lengths.setdefault(len(strings[number]), []).append(number)
        for numbers in lengths.values():
            ids, mask = (np.stack([part[k] for k in numbers]) for part in (strings, wanted))
            yield [rows[k] for k in numbers], ids, mask

    def _plan_tokens(self, target: Target) -> Int[np.ndarray, " p"]:
        """Returns what stands before an action: `Plan:`, the plan, `Action:`; or nothing."""
        if self.plan_frame is None:
            return np.empty(0, np.int32)
        if target.plan is None:
            raise UserError(
                f"example {target.name}: no plan, which config.prompts.plan={self.prompts.plan} "
                "wants before its action",
                fix="Train with config.prompts.plan=none, or on demonstrations that have one",
            )
        return self._plan(target.plan)

    def _write_plan(self, plan: str) -> Int[np.ndarray, " p"]:
        assert self.plan_frame is not None
        opening, marker = self.plan_frame
        words = self._ids(plan)
        if len(words) > self.layout.plan:
            raise TextError(
                f"plan {sequence.shown(plan)} is too long",
                expected=f"at most {self.layout.plan} tokens (config.sequence.plan)",
                found=f"{len(words)} tokens",
                fix=f"Shorten it, or train with --config.sequence.plan={len(words)}",
            ).of(plan, len(words))
        return np.array([*opening, *words, *marker], np.int32)

    def _answer_tokens(self, target: Target) -> Int[np.ndarray, " t"]:
        if target.suffix is None:
            raise UserError(
                f"example {target.name}", expected="an action or an answer", found="neither"
            )
        return self._answer(target.suffix, target.places)

    def _write_answer(self, text: str, places: bool) -> Int[np.ndarray, " t"]:
        if not is_seen(text):
            raise TextError(f"answer {text[:80]!r}", expected="at least one word", found="none").of(
                text
            )
        ids = self._ids(text, places=places)
        if (needed := len(ids) + 1) > self.layout.suffix:
            raise TextError(
                f"answer {sequence.shown(text)} is too long",
                expected=f"at most {self.layout.suffix} tokens with <eos> (config.sequence.suffix)",
                found=f"{needed} tokens",
                fix=f"Shorten it, or train with --config.sequence.suffix={needed}",
            ).of(text, needed)
        return np.array(ids, np.int32)

    def _ids(self, text: str, *, places: bool = False) -> list[int]:
        try:
            return self.tokenizer.encode(text, places=places)
        except UserError as error:
            raise TextError(str(error).removesuffix(".")).of(text) from error

    def _lay_out(
        self, text: str, robot: bool, is_prompt: bool
    ) -> tuple[Int[np.ndarray, " t"], int]:
        wording = self.prompts.for_robot if robot else self.prompts.for_web
        wording = self.prompts.as_it_is if is_prompt else wording
        try:
            prompt = wording(text)
            if self.image_tokens:
                prompt = self.prompts.parts(text, robot=robot, is_prompt=is_prompt)
            # The author of a whole prompt may have written places in it.
            return sequence.prefix_tokens(
                prompt, self.tokenizer, self.layout, self.image_tokens, places=is_prompt
            )
        except TextError as error:
            raise error.of(text) from error.__cause__
        except UserError as error:
            raise TextError(str(error).removesuffix(".")).of(text) from error


def _overwritten(tokenizer: Tokenizer, ids: Sequence[int]) -> Sequence[int]:
    """Returns the action ids that texts may not use: not those of integers, which they share."""
    numbers = tokenizer.encode_all([str(k) for k in range(len(ids))])
    return () if numbers == [[token] for token in ids] else ids
