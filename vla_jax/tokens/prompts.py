"""The words around an instruction or a question."""

import dataclasses
from typing import Literal

from vla_jax.core.errors import UserError

ROBOT = {
    # RT-2, section 3.2
    "rt2": "Q: what action should the robot take to {text}? A:",
    # openvla:prismatic (openvla-7b)
    "openvla": "In: What action should the robot take to {text}?\nOut:",
    # PaliGemma style: nothing but the instruction
    "plain": "{text}",
    # PaLM-E, section 3: a sentence with the image and the state in their places
    "palme": "Given <image> and <state> Q: what action should the robot take to {text}? A:",
}
LOWER = frozenset({"openvla"})  # forms whose authors lower the instruction's case
WEB = {
    # RT-2, appendix D (PaLI-X)
    "rt2": "Q: {text}? A:",
    # big_vision:big_vision/configs/proj/paligemma (VQAv2)
    "paligemma": "answer en {text}",
    "plain": "{text}",
    "palme": "Given <image> Q: {text}? A:",
}
# Around the words of a plan, in front of an action (RT-2, section 4.4)
OPENING, MARKER = "Plan:", "Action:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """Which wording to use.

    Attributes:
      robot: form of the prefix of a robot example.
      web: form of the prefix of a web example.
      plan: what a robot says before it acts: nothing (`none`), or a plan as in the demonstrations
        of an `expert` who said so: `Plan: pick blue ball Action:`, in the suffix.
    """

    robot: Literal["rt2", "openvla", "plain", "palme"] = "rt2"
    web: Literal["rt2", "paligemma", "plain", "palme"] = "rt2"
    plan: Literal["none", "expert"] = "none"

    @property
    def inline(self) -> tuple[bool, bool]:
        """Whether images stand inside the prompts of robots, and inside those of the web."""
        return "<image>" in ROBOT[self.robot], "<image>" in WEB[self.web]

    def for_robot(self, instruction: str) -> str:
        """Returns the prefix text for an instruction such as "pick up the red cube".

        Raises:
          UserError: the instruction is empty.
        """
        words = _words(instruction, "instruction")
        return ROBOT[self.robot].format(text=words.lower() if self.robot in LOWER else words)

    def for_web(self, question: str) -> str:
        """Returns the prefix text for a question.

        Raises:
          UserError: the question is empty.
        """
        return WEB[self.web].format(text=_words(question, "question"))

    def as_it_is(self, prompt: str) -> str:
        """Returns a prefix text that is the whole prompt, such as "caption en", unchanged.

        Raises:
          UserError: the prompt is empty.
        """
        if not prompt.strip():
            raise _empty(prompt, "prompt")
        return prompt


def _words(text: str, noun: str) -> str:
    words = " ".join(text.split()).rstrip("?.")
    if not words:
        raise _empty(text, noun)
    return words


def _empty(text: str, noun: str) -> UserError:
    return UserError(f"{noun} {text!r}", expected="at least one word", found="none")
