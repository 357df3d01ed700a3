"""Does the model still answer questions? Exact match per kind; places a tenth of a side apart."""

import re
from collections.abc import Callable, Sequence
from typing import Protocol

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

    def answers(self, i: int) -> list[str]:
        """Returns all right answers to question `i`."""
        ...

    def question_kind(self, i: int) -> str:
        """Returns what question `i` asks for."""
        ...


def is_correct(answer: str, truths: Sequence[str], *, locations: int, tolerance: float) -> bool:
    """Tells whether an answer is right: whether it is one of the stored ones.

    Words must be equal. A place (`<locNNNN>` tokens) must be within `tolerance` of the truth on
    each axis, as a share of the image side.

    Args:
      answer: what the model said.
      truths: the stored answers.
      locations: how many `<locNNNN>` tokens span the image side.
      tolerance: 0..1.
    """

    def equal(truth: str) -> bool:
        wanted, given = (list(map(int, _LOCATION.findall(text))) for text in (truth, answer))
        if not wanted:
            return answer.strip() == truth.strip()
        return len(given) == len(wanted) and all(
            abs(a - b) <= tolerance * locations for a, b in zip(wanted, given, strict=True)
        )

    return any(map(equal, truths))


def answer_all(
    policy: Policy,
    questions: Questions,
    count: int,
    *,
    batch_size: int = 50,
    read: Callable[[int], tuple[int, Example]] | None = None,
) -> list[tuple[str, list[str], str]]:
    """Asks the first `count` questions; returns (kind, truths, answer) of each.

    Args:
      policy: is asked.
      questions: the set.
      count: how many.
      batch_size: asked together.
      read: reads a question, or the next one that can be used, and says which; None reads as it is.
    """
    read = read or (lambda i: (i, questions.example(i)))
    out = []
    total = min(count, len(questions))
    for start in range(0, total, batch_size):
        chosen = range(start, min(start + batch_size, total))
        # The last batch repeats its end, so that one compiled program serves all.
        padded = [*chosen, *[chosen[-1]] * (batch_size - len(chosen))]
        numbers, examples = zip(*map(read, padded), strict=True)
        answers = policy.answer_batch(
            [policy.observer.read(example) for example in examples],
            [example.prefix for example in examples],
            are_prompts=[example.is_prompt for example in examples],
        )
        for i, answer in zip(numbers[: len(chosen)], answers, strict=False):
            out.append((questions.question_kind(i), questions.answers(i), answer))
    return out


def rates(
    results: Sequence[tuple[str, list[str], str]], *, locations: int, tolerance: float = 0.1
) -> dict[str, Rate]:
    """Returns the share of right answers per kind, kinds in alphabetical order."""
    kinds = sorted({kind for kind, _, _ in results})
    return {
        kind: Rate.of(
            is_correct(answer, truths, locations=locations, tolerance=tolerance)
            for k, truths, answer in results
            if k == kind
        )
        for kind in kinds
    }
