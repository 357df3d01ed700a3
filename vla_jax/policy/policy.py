"""Images and an instruction in, an action in robot units out."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from vla_jax.core.arrays import Float, Int, UInt8
from vla_jax.core.batch import Target
from vla_jax.policy.decode import Decoder, make_decoder
from vla_jax.policy.likelihood import make_scorer
from vla_jax.policy.observation import Observation, Observer, stack
from vla_jax.tokens import grammar
from vla_jax.tokens.encoder import Encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Action:
    """What a policy wants done.

    Attributes:
      values: float32 [n, a] in the units of the ActionSpec; n steps, to be executed in order.
      tokens: int32 [t], as decoded: a plan, if there is one, and the action, padded with 0.
      terminate: True if the first step ends the episode.
      plan: what the policy said it was about to do; empty for one that does not plan.
      milliseconds: time of each stage: `prepare`, `decode`.
    """

    values: Float[np.ndarray, "n a"]
    tokens: Int[np.ndarray, " t"]
    terminate: bool
    plan: str
    milliseconds: Mapping[str, float]


class Policy:
    """A trained model with everything that turns its tokens into actions.

    Args:
      graph: the model's structure.
      params: its parameters.
      encoder: prompts, tokenizer, action tokens, layout.
      robot: the robot dataset whose actions are wanted; may be left out where there is one.
      observer: what the model looks at.

    Attributes:
      legal: what it may write when it acts.

    Raises:
      UserError: there is no such robot, or there are several and none is named; or the suffix has
        no room for an action.
    """

    def __init__(
        self,
        graph: nnx.GraphDef,
        params: Any,
        encoder: Encoder,
        *,
        robot: str | None = None,
        observer: Observer,
    ):
        self.graph, self.params = graph, params
        self.encoder, self.observer = encoder, observer
        self.robot = encoder.robot(robot)
        self.action_tokens = encoder.actions[self.robot]
        self.legal = grammar.action(encoder, self.robot)
        self._decode_action = make_decoder(graph, self.legal)
        self._decode_text = make_decoder(graph, grammar.answer(encoder))
        self._score = make_scorer(graph, encoder.layout.prefix)

    def load(self, params: Any) -> None:
        """Takes other parameters of the same model, placed as those it was made with."""
        places = jax.tree.map(lambda leaf: leaf.sharding, self.params)
        self.params = jax.device_put(params, places)

    def act(
        self,
        images: Mapping[str, UInt8[np.ndarray, "y x 3"] | Sequence[UInt8[np.ndarray, "y x 3"]]],
        instruction: str,
        state: Float[np.ndarray, " s"] | None = None,
    ) -> Action:
        """Decides on one observation.

        Args:
          images: view name -> uint8 RGB, any size; for a model that looks back, the last of them,
            oldest first (fewer at the beginning of an episode).
          instruction: what to do, in words.
          state: proprioception in robot units, for a model that takes it.

        Raises:
          UserError: see `Observer.look`; the instruction is empty or too long.
        """
        start = time.perf_counter()
        observation = self.observer.look(images, state)
        prepared = time.perf_counter()
        values, tokens = self.act_batch([observation], [instruction])
        done = time.perf_counter()
        return Action(
            values=values[0],
            tokens=tokens[0],
            terminate=self._terminates(values[0]),
            plan=self.plan(tokens[0]),
            milliseconds={"prepare": 1e3 * (prepared - start), "decode": 1e3 * (done - prepared)},
        )

    def act_batch(
        self, observations: Sequence[Observation], instructions: Sequence[str]
    ) -> tuple[Float[np.ndarray, "b n a"], Int[np.ndarray, "b t"]]:
        """Decides on b observations; returns actions and tokens, as in `Action`."""
        prefixes = self._prefixes(instructions, robot=True)
        tokens = self._run(self._decode_action, observations, prefixes)
        return self.values(tokens), tokens

    def values(self, tokens: Int[np.ndarray, "b t"]) -> Float[np.ndarray, "b n a"]:
        """Returns the actions that decoded tokens stand for, as in `Action`."""
        strings = [self.encoder.split(row)[1] for row in tokens]
        return np.stack([self.action_tokens.read(string) for string in strings])

    def plan(self, tokens: Int[np.ndarray, " t"]) -> str:
        """Returns what tokens of an action say before it, if anything."""
        return self.encoder.tokenizer.decode(self.encoder.split(tokens)[0].tolist())

    def score_batch(
        self, observations: Sequence[Observation], targets: Sequence[Target]
    ) -> tuple[Float[np.ndarray, "b n"], Int[np.ndarray, "b n"]]:
        """Returns how unlikely the b demonstrated suffixes are, and what is likeliest instead.

        Of every suffix slot, over the full vocabulary and without the grammar: the negative
        log-likelihood of its token in nats, and the likeliest token.

        Raises:
          UserError: see `Encoder.encode_all`.
        """
        tokens, lengths, _ = self.encoder.encode_all(targets)
        nll, likeliest = self._score(self.params, tokens, lengths, **stack(observations))
        return np.asarray(nll), np.asarray(likeliest)

    def answer_batch(
        self,
        observations: Sequence[Observation],
        questions: Sequence[str],
        *,
        are_prompts: Sequence[bool] | None = None,
    ) -> list[str]:
        """Answers b questions, each about its observation, in free text.

        Args:
          observations: what the questions are about.
          questions: one per observation.
          are_prompts: which of them are whole prompts, as in Target; None for none.
        """
        prefixes = self._prefixes(questions, robot=False, are_prompts=are_prompts)
        tokens = self._run(self._decode_text, observations, prefixes)
        eos = self.encoder.tokenizer.special.eos
        answers = [row[: row.index(eos)] if eos in row else row for row in tokens.tolist()]
        return [self.encoder.tokenizer.decode(row) for row in answers]

    def _run(
        self,
        decode: Decoder,
        observations: Sequence[Observation],
        prefixes: tuple[Int[np.ndarray, "b t"], Int[np.ndarray, " b"]],
    ) -> Int[np.ndarray, "b n"]:
        return np.asarray(decode(self.params, *prefixes, **stack(observations)))

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
