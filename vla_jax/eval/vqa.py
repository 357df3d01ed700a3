"""Does the model still answer questions? Exact match per kind of question."""

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vla_jax.core.batch import Example
from vla_jax.eval.rate import Rate
from vla_jax.policy.policy import Policy

_LOCATION = re.compile(r"<loc(\d+)>")


class Questions(Protocol):
    """A set of questions by index."""

    def __len__(self) -> int: ...

    def example(self, i: int) -> Example:
        """Returns question `i` with its answer as suffix."""
        ...

    def kind(self, i: int) -> str:
        """Returns what question `i` asks for."""
        ...


def is_correct(answer: str, truth: str, *, locations: int, tolerance: float) -> bool:
    """Tells whether an answer is right.

    Words must be equal. A place (`<locNNNN>` tokens) must be within `tolerance` of the truth on
    each axis, as a share of the image side.

    Args:
      answer: what the model said.
      truth: the stored answer.
      locations: how many `<locNNNN>` tokens span the image side.
      tolerance: 0..1.
    """
    wanted, given = (list(map(int, _LOCATION.findall(text))) for text in (truth, answer))
    if not wanted:
        return answer.strip() == truth.strip()
    return len(given) == len(wanted) and all(
        abs(a - b) <= tolerance * locations for a, b in zip(wanted, given, strict=True)
    )


def answer_all(
    policy: Policy, questions: Questions, count: int, *, batch_size: int = 50
) -> list[tuple[str, str, str]]:
    """Asks the first `count` questions; returns (kind, truth, answer) of each."""
    out = []
    total = min(count, len(questions))
    for start in range(0, total, batch_size):
        chosen = range(start, min(start + batch_size, total))
        # The last batch repeats its end, so that one compiled program serves all.
        padded = [*chosen, *[chosen[-1]] * (batch_size - len(chosen))]
        examples = [questions.example(i) for i in padded]
        images = np.stack([policy.observe(example) for example in examples])
        answers = policy.answer_batch(images, [example.prefix for example in examples])
        for i, example, answer in zip(chosen, examples, answers, strict=False):
            out.append((questions.kind(i), example.suffix or "", answer))
    return out


def rates(
    results: Sequence[tuple[str, str, str]], *, locations: int, tolerance: float = 0.1
) -> dict[str, Rate]:
    """Returns the share of right answers per kind, kinds in alphabetical order."""
    kinds = sorted({kind for kind, _, _ in results})
    return {
        kind: Rate.of(
            is_correct(answer, truth, locations=locations, tolerance=tolerance)
            for k, truth, answer in results
            if k == kind
        )
        for kind in kinds
    }
