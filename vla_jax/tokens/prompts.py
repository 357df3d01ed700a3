"""The words around an instruction or a question."""

import dataclasses
import re
from typing import Literal

from vla_jax.core import words as words_lib
from vla_jax.core.batch import IMAGE_TOKEN, STATE_TOKEN
from vla_jax.core.errors import TextError

# What stands for images and state in a form, or in a prompt that is written as it is.
_MARKERS = {"<image>": IMAGE_TOKEN, "<state>": STATE_TOKEN}
_MARKER = re.compile("(<image>|<state>)")

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

    def parts(self, text: str, *, robot: bool, is_prompt: bool = False) -> list[str | int]:
        """Returns a prefix in parts: text, and IMAGE_TOKEN and STATE_TOKEN where these stand.

        Only the form has markers, or the author of a whole prompt; in an instruction `<image>` is
        text.

        Args:
          text: the instruction, the question or the whole prompt.
          robot: whether it is an instruction.
          is_prompt: whether it is the whole prompt.

        Raises:
          UserError: it is blank.
        """
        if is_prompt:
            pieces = _MARKER.split(self.as_it_is(text))
            return [_MARKERS.get(piece, piece) for piece in pieces]
        form = ROBOT[self.robot] if robot else WEB[self.web]
        said = self._said(text, robot=robot)
        return [_MARKERS.get(piece) or piece.format(text=said) for piece in _MARKER.split(form)]

    def for_robot(self, instruction: str) -> str:
        """Returns the prefix text for an instruction such as "pick up the red cube".

        Raises:
          UserError: the instruction is empty.
        """
        return ROBOT[self.robot].format(text=self._said(instruction, robot=True))

    def for_web(self, question: str) -> str:
        """Returns the prefix text for a question.

        Raises:
          UserError: the question is empty.
        """
        return WEB[self.web].format(text=self._said(question, robot=False))

    def as_it_is(self, prompt: str) -> str:
        """Returns a prefix text that is the whole prompt, such as "caption en", unchanged.

        Raises:
          UserError: the prompt is empty.
        """
        if words_lib.is_blank(prompt):
            raise _blank(prompt, "prompt")
        return prompt

    def _said(self, text: str, *, robot: bool) -> str:
        words = words_lib.words(text)
        if not words:
            raise _blank(text, "instruction" if robot else "question")
        return words.lower() if robot and self.robot in LOWER else words


def _blank(text: str, noun: str) -> TextError:
    return TextError(f"{noun} {text[:80]!r}", expected="at least one word", found="none")
