"""Which field of a question set is the question, which the answer: one line per layout.

A field of a field is named with a slash, as in TFDS: `captions/text` is the `text` of every
caption. JSON records are read by the same names.
"""

import dataclasses
from typing import NamedTuple

from vla_jax.core.errors import UserError
from vla_jax.core.words import is_seen
from vla_jax.data.web.formats import Fields


class Texts(NamedTuple):
    """The words of one example.

    Attributes:
      prefix: the question.
      suffixes: the answers, each as often as it was given.
      kind: what sort of question it is; empty if the set does not say.
    """

    prefix: str
    suffixes: list[str]
    kind: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """The fields of a question set. Of several names the first that holds a text is taken.

    Attributes:
      prefix: fields of the question.
      task: the question where all examples have the same one; then `prefix` is empty.
      suffix: fields of the answers.
      kind: fields of the kind of question.
      is_prompt: whether the prefix is the whole prompt, as in Target.
      places: whether `<locNNNN>` in the answers stands for a place, as in Target.
    """

    prefix: tuple[str, ...] = ()
    task: str = ""
    suffix: tuple[str, ...]
    kind: tuple[str, ...] = ()
    # An index is named by its layout's repr, and this changes nothing in it.
    is_prompt: bool = dataclasses.field(default=False, repr=False)
    places: bool = dataclasses.field(default=False, repr=False)

    @property
    def names(self) -> frozenset[str]:
        """All fields that are read."""
        return frozenset(self.prefix + self.suffix + self.kind)

    def read(self, fields: Fields, where: str) -> Texts:
        """Picks question, answers and kind.

        Raises:
          UserError: there is no question, more than one, or no answer.
        """
        prefixes = _first(fields, self.prefix) if not self.task else [self.task]
        suffixes = _first(fields, self.suffix)
        if len(prefixes) != 1:
            raise _unfit(fields, self.prefix, where, "one question", len(prefixes))
        if not suffixes:
            raise _unfit(fields, self.suffix, where, "at least one answer", 0)
        return Texts(prefixes[0], suffixes, " ".join(_first(fields, self.kind)))


def _first(fields: Fields, names: tuple[str, ...]) -> list[str]:
    for name in names:
        texts = [stripped for text in fields.get(name) or () if is_seen(stripped := text.strip())]
        if texts:
            return texts
    return []


def _unfit(
    fields: Fields, names: tuple[str, ...], where: str, expected: str, count: int
) -> UserError:
    present = [name for name in names if name in fields]
    if present:
        found = count or "none"
        return UserError(
            f"{where}: field {present[0]!r}",
            expected=expected,
            found=found,
            fix="Correct the example or take it out; the test split of a benchmark has no answers",
        )
    return UserError(
        f"{where}: no field {' or '.join(map(repr, names))}",
        expected=expected,
        found=f"the fields {', '.join(sorted(fields)) or '(none)'}",
        fix=f"Choose a layout that has them: {', '.join(LAYOUTS)}",
    )


_QUESTION_ANSWER = Layout(prefix=("question",), suffix=("answers", "answer"), kind=("kind",))

# The prefixes of captions and of questions asked by the model are PaliGemma's (Beyer et al. 2024,
# section 3.2.5), whose answers to "detect cat" and "segment cat" are places. Field names:
LAYOUTS: dict[str, Layout] = {
    # big_vision:datasets/vqa/vqa.py; the annotation files of visualqa.org.
    "vqav2": Layout(
        prefix=("question_text", "question"),
        suffix=("answers", "answers/answer", "top_answer", "multiple_choice_answer"),
        kind=("answer_type",),
    ),
    # big_vision:datasets/okvqa/okvqa.py; the annotation files of okvqa.allenai.org.
    "okvqa": Layout(
        prefix=("question",),
        suffix=("answers", "answers/answer"),
        kind=("question_type_readable", "question_type"),
    ),
    # tensorflow_datasets:coco_captions; big_vision:datasets/coco35l, textcaps; img2dataset.
    "coco_captions": Layout(
        task="caption en",
        suffix=("captions/text", "captions", "texts", "caption", "suffix", "txt"),
        is_prompt=True,
    ),
    # Mostafazadeh et al. 2016: a picture and the questions people asked about it.
    "vqg": Layout(task="question en", suffix=("questions", "question"), is_prompt=True),
    # big_vision:configs/proj/paligemma/transfers (JSONL of prefix, suffix, image).
    "prefix_suffix": Layout(
        prefix=("prefix",), suffix=("suffix", "suffixes"), is_prompt=True, places=True
    ),
    "qa": _QUESTION_ANSWER,
    "tabletop": dataclasses.replace(_QUESTION_ANSWER, places=True),
}
